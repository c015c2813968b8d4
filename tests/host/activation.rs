//! From the package to a launch, and what runs when: nothing before the first datagram, nothing when idle.

use crate::agent::{Agent, UID, policy};
use portcullis_tests::{Machine, holds, uuid};

const DNSMASQ: &str = "localhost/portcullis-demo-helpers:1";

/// What an operator does for the preset, in a machine that has the package: one command, the images, the socket.
#[track_caller]
fn set_up(machine: &Machine) -> Agent<'_> {
    machine.import("helpers", DNSMASQ);
    machine.write(
        "/etc/portcullis/portcullis.toml",
        "[broker]\nidle_exit = \"1s\"\n",
    );
    machine.must("portcullis-policy init demo --preset demo");
    let agent = Agent {
        machine,
        name: "demo".into(),
    };
    without_absent_controllers(&agent);
    machine.must("mkdir -p /srv/demo /run/netns /var/lib/portcullis-demo");
    agent.enable();
    agent
}

/// A container's limits take cgroup controllers, which a machine of systemd-nspawn has only where its host gives them.
fn without_absent_controllers(agent: &Agent<'_>) {
    let has = agent.machine.must("cat /sys/fs/cgroup/cgroup.controllers");
    if !has.contains("pids") || !has.contains("memory") {
        let path = agent.policy_path();
        agent.machine.must(&format!(
            "sed -i -e '/^memory =/d' -e 's/^pids = .*/pids = 0/' {path}"
        ));
    }
}

/// A network as Neutron makes it: a namespace, and a directory that belongs to the agent.
fn network(machine: &Machine) -> String {
    let network = uuid();
    machine.must(&format!(
        "ip netns add qdhcp-{network} && \
         ip -n qdhcp-{network} link add tap0 type veth peer name eth0 && \
         ip -n qdhcp-{network} address add 10.20.0.2/24 dev tap0 && \
         ip -n qdhcp-{network} link set tap0 up && \
         d=/var/lib/portcullis-demo/dhcp/{network} && mkdir -p $d && touch $d/host $d/addn_hosts $d/opts && \
         chown -R {UID}:{UID} $d"
    ));
    network
}

/// dnsmasq as an agent calls it, in the network's namespace.
fn dnsmasq(network: &str) -> String {
    let state = format!("/var/lib/neutron/dhcp/{network}");
    format!(
        "--netns=qdhcp-{network} dnsmasq --no-hosts --no-resolv --bind-dynamic --conf-file=/dev/null \
         --pid-file={state}/pid --dhcp-leasefile={state}/leases --dhcp-hostsfile={state}/host \
         --dhcp-range=set:subnet-{},10.20.0.0,static,255.255.255.0,86400s",
        uuid()
    )
}

#[test]
fn an_installed_package_launches_dnsmasq_for_a_preset_and_runs_only_while_it_is_needed() {
    let machine = Machine::with_package();
    let agent = set_up(&machine);
    agent.start_container(&["/var/lib/portcullis-demo:/var/lib/neutron"]);
    let ours = || {
        machine.running("portcullis-launcher").len() + machine.running("portcullis-broker").len()
    };
    assert_eq!(ours(), 0, "nothing runs before the first datagram");

    for _ in 0..2 {
        let network = network(&machine);
        let answer = agent.run(&dnsmasq(&network));
        assert_eq!(answer["answer"], "launched", "{answer}");
        assert!(agent.is_serving());
        assert_eq!(ours(), 2);
        let number = i32::try_from(answer["pid"].as_i64().unwrap()).unwrap();
        let process = machine.process(number);
        assert_eq!(process.arguments()[0], "/usr/sbin/dnsmasq");
        let netns = machine.must(&format!("ip netns identify {number}"));
        assert_eq!(netns, format!("qdhcp-{network}"));

        // While the side container runs, so do we; then no longer.
        process.signal(rustix::process::Signal::TERM);
        holds("nothing runs when idle", || ours() == 0);
        holds("systemd knows", || {
            machine.property(&agent.service_unit(), "ActiveState") == "inactive"
        });
        assert_eq!(machine.property(&agent.service_unit(), "Result"), "success");
        assert_eq!(
            machine.property(&agent.socket_unit(), "ActiveState"),
            "active"
        );
        assert_eq!(
            machine.must("podman ps --all --quiet --filter=label=io.portcullis.agent=demo"),
            ""
        );
    }
}

#[test]
fn a_broken_policy_and_a_hundred_datagrams_leave_the_socket_alive_until_it_is_mended() {
    let machine = Machine::with_package();
    let agent = Agent::new(&machine, "demo", "[[launch]]\nrule = ");
    let answers = agent.must(
        "for n in $(seq 100); do portcullis run --json --timeout=60 true || :; done | grep -c policy-unavailable",
    );
    assert_eq!(answers, "100");
    let alive = || {
        assert_eq!(
            machine.property(&agent.socket_unit(), "ActiveState"),
            "active"
        );
        assert_eq!(machine.property(&agent.socket_unit(), "Result"), "success");
        assert_eq!(machine.property(&agent.service_unit(), "NRestarts"), "0");
        assert!(agent.is_serving());
    };
    alive();
    agent.write_policy(&policy("demo", "[limits]\nrunning = 7\n"));
    machine.must("systemctl reload portcullis@demo.service");
    holds("the mended policy is in force", || {
        agent.run("true")["reason"] == "no-rule"
    });
    alive();
}
