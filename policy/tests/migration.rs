//! The policies of the guide to the file transport: each loads with nothing to remark, and takes what an old wrapper wrote.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_policy::{Decision, Peer, Policy, decide};
use portcullis_wire::{AgentName, Launch, line};
use support::{A, dnsmasq_args, text};

const GUIDE: &str = include_str!("../../docs/files.md");

/// The policy beneath that heading, for the agent that the guide names.
fn policy(heading: &str) -> Policy {
    let (_, section) = GUIDE.split_once(&format!("\n### {heading}\n")).unwrap();
    let (_, block) = section.split_once("```toml\n").unwrap();
    let (toml, _) = block.split_once("```").unwrap();
    let agent = AgentName::new("neutron-dhcp").unwrap();
    let (policy, lints) = Policy::review(&agent, &[text(heading, toml)])
        .unwrap_or_else(|problems| panic!("{problems}"));
    let lints: Vec<String> = lints.iter().map(ToString::to_string).collect();
    assert!(lints.is_empty(), "{heading}: {lints:?}");
    policy
}

/// The name of the container that a line becomes, read and judged as the host does.
#[track_caller]
fn launched(policy: &Policy, command: &str, written: &str) -> String {
    let mut spools = policy.spools().iter();
    let spool = spools.find(|spool| *spool.command == *command).unwrap();
    let dir = spool.dir.clone();
    let line = line::read(written.as_bytes()).unwrap();
    let request = Launch {
        command: command.to_owned(),
        netns: line.netns,
        args: line.args,
        ..Launch::default()
    };
    match decide(policy, &Peer::Spool { dir }, &request) {
        Decision::Allow(plan) => plan.name().to_owned(),
        Decision::Deny(denial) => panic!("denied: {}", denial.message),
    }
}

/// What `echo "$NETNS $ARGS"` writes of a dnsmasq, an empty argument among its own.
fn as_a_wrapper_writes(state: &str, configuration: &str) -> String {
    let mut args = dnsmasq_args(A);
    args.insert(1, String::new());
    let line = format!("qdhcp-{A} {}", args.join(" "));
    line.replace("/var/lib/neutron", state)
        .replace("/dev/null", configuration)
}

#[test]
fn each_policy_of_the_guide_takes_the_lines_of_its_deployment() {
    for (heading, state, configuration, service) in [
        (
            "TripleO",
            "/var/lib/neutron",
            "/dev/null",
            "neutron-{}-qdhcp",
        ),
        (
            "Kolla",
            "/var/lib/neutron/kolla",
            "/etc/neutron/dnsmasq.conf",
            "neutron-dhcp-{}",
        ),
        ("edpm", "/var/lib/neutron", "/dev/null", "neutron-dhcp-{}"),
    ] {
        let policy = policy(heading);
        let name = |command: &str| format!("{}-{A}", service.replace("{}", command));
        let line = as_a_wrapper_writes(state, configuration);
        assert_eq!(launched(&policy, "dnsmasq", &line), name("dnsmasq"));
        let line = format!("qdhcp-{A} -f {state}/ns-metadata-proxy/{A}.conf");
        assert_eq!(launched(&policy, "haproxy", &line), name("haproxy"));
    }
}

#[test]
fn the_spools_of_the_guide_are_those_that_its_commands_name() {
    let of = |heading| {
        let policy = policy(heading);
        let spools = policy.spools().iter();
        spools
            .map(|spool| (spool.dir.to_string(), spool.lock.to_string()))
            .collect::<Vec<_>>()
    };
    let fields = |service| {
        let lock = format!("/run/lock/containers/{service}-processes.lock");
        (format!("/var/lib/neutron/{service}"), lock)
    };
    assert_eq!(
        of("TripleO"),
        ["neutron-dnsmasq", "neutron-haproxy"].map(fields)
    );
    let ours = |command| {
        let dir = format!("/var/spool/portcullis/neutron-dhcp/{command}");
        let lock = format!("{dir}/lock");
        (dir, lock)
    };
    for heading in ["Kolla", "edpm"] {
        assert_eq!(of(heading), ["dnsmasq", "haproxy"].map(ours));
    }
    for (dir, _) in of("TripleO")
        .iter()
        .take(1)
        .chain(of("Kolla").iter().take(1))
    {
        assert!(GUIDE.matches(dir.as_str()).count() > 1, "{dir}");
    }
}
