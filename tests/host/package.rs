//! The package itself: what systemd thinks of its units, and what is left when it goes.

use crate::agent::{Agent, policy};
use portcullis_tests::{Machine, holds, keep};

const RULES: &str = r#"
[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "sleep"
user = "42435:42435"
pids = 0
"#;

/// As [`RULES`], for lines as well.
fn with_spool() -> String {
    let spool = "[[spool]]\ncommand = \"sleep\"\ndir = \"{dir}/sleep\"\n";
    spool.to_owned() + &RULES.replace("[launch.container]", "spool = true\n[launch.container]")
}

/// Lets systemd watch the spools of an agent, as an operator does.
#[track_caller]
fn watch(machine: &Machine, agent: &str) {
    let drop_in = format!("/etc/systemd/system/portcullis-spool@{agent}.path.d");
    machine.must(&format!(
        "mkdir -p {drop_in} && portcullis-policy path-unit /etc/portcullis/agents/{agent}.toml >{drop_in}/spools.conf && \
         systemctl daemon-reload && systemctl enable --now portcullis-spool@{agent}.path 2>&1"
    ));
}

/// `systemd-analyze security` of the service, for the documents, is left in `target/host`.
#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let machine = Machine::with_package();
    machine.write(
        "/etc/portcullis/agents/demo.toml",
        &policy("demo", &with_spool()),
    );
    watch(&machine, "demo");
    let said = machine.must(
        "systemd-analyze verify --man=no portcullis@demo.service portcullis@demo.socket portcullis-spool@demo.path \
         portcullis.target 2>&1",
    );
    assert_eq!(said, "");
    let security = machine.must("systemd-analyze security --no-pager portcullis@demo.service");
    keep("systemd-analyze-security.txt", &(security + "\n"));
}

/// The template has no path of its own.
#[test]
fn without_its_drop_in_a_path_unit_does_not_start_and_its_status_names_the_guide() {
    let machine = Machine::with_package();
    let started = machine.shell("systemctl start portcullis-spool@demo.path");
    assert!(!started.status.success());
    let status = machine.shell("systemctl status --no-pager --full portcullis-spool@demo.path");
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("bad unit file setting"), "{status}");
    let guide = "file:/usr/share/doc/portcullis/docs/files.md";
    assert!(status.contains(guide), "{status}");
    assert!(include_str!("../../docs/files.md").contains("portcullis-policy path-unit"));
}

/// Its socket was never enabled: that comes with the service.
#[test]
fn the_target_stops_what_a_path_unit_started_and_brings_it_back() {
    let machine = Machine::with_package();
    let agent = Agent {
        machine: &machine,
        name: "demo".into(),
    };
    agent.write_policy(&policy("demo", &with_spool()));
    machine.must("mkdir -p /srv/demo/sleep /run/netns");
    watch(&machine, "demo");
    let active = || machine.property(&agent.service_unit(), "ActiveState") == "active";
    holds("it is served", active);
    machine.must("portcullis --agent demo ping");

    // Which takes the others with it, and does not wait for them.
    machine.must("systemctl stop portcullis.target");
    for unit in [&agent.service_unit(), "portcullis-spool@demo.path"] {
        holds("what is part of it stops", || {
            machine.property(unit, "ActiveState") == "inactive"
        });
    }
    assert!(!agent.is_serving());
    machine.must("date >/srv/demo/sleep/processes-timestamp");
    assert!(!agent.is_serving());
    machine.must("systemctl start portcullis.target");
    holds("it is served again", active);
}

#[test]
fn a_purge_leaves_side_containers_and_the_operators_policies() {
    let machine = Machine::with_package();
    let agent = Agent::new(&machine, "demo", &with_spool());
    watch(&machine, "demo");
    let answer = agent.run("sleep");
    let number = i32::try_from(answer["pid"].as_i64().unwrap()).unwrap();
    let side = machine.process(number);
    machine.must(
        "rm /root/package.deb && DEBIAN_FRONTEND=noninteractive apt-get purge --yes portcullis",
    );

    assert!(side.is_alive());
    assert_eq!(
        machine.must("podman ps --format='{{.Names}}' --filter=name=sleep"),
        "sleep"
    );
    assert!(machine.running("portcullis-launcher").is_empty());
    assert!(machine.running("portcullis-broker").is_empty());
    let units = machine.must("systemctl list-units --all --plain --no-legend 'portcullis*'");
    // What the side container is in is systemd's own, and stays.
    let mut units = units.lines().filter_map(|unit| unit.split(' ').next());
    assert!(
        units.all(|unit| ["portcullis-demo.slice", "portcullis.slice"].contains(&unit)),
        "{units:?}"
    );
    // Other file systems are the kernel's, and podman's store.
    let left = machine.must("find / /run /tmp -xdev -iname '*portcullis*' | sort");
    let drop_in = "/etc/systemd/system/portcullis-spool@demo.path.d";
    assert_eq!(left, format!("/etc/portcullis\n{drop_in}"));
    assert_eq!(
        machine.must("find /etc/portcullis -type f"),
        agent.policy_path()
    );
    // Its number is not given to somebody else.
    machine.must("getent passwd portcullis");
}
