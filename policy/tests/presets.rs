//! The presets as they are shipped: each becomes a policy without anything to remark, allows what its agent asks for, and
//! denies the attacks that it is there against.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_policy::{Decision, LaunchPlan, Lint, Peer, Policy, decide};
use portcullis_wire::{AgentName, Launch, Reason};
use std::path::Path;
use support::{A, B, dnsmasq, dnsmasq_args, dnsmasq_with, podman, request, text};

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../presets")
}

fn preset(name: &str, agent: &str) -> (Policy, Vec<Lint>) {
    let file = directory().join(format!("{name}.toml"));
    let text = text(name, &std::fs::read_to_string(file).unwrap());
    Policy::review(&AgentName::new(agent).unwrap(), &[text])
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// The same request in the directory of a network's segment.
fn in_segment(mut request: Launch) -> Launch {
    for arg in &mut request.args {
        *arg = arg.replace("/dhcp/", "/dhcp/1001/");
    }
    request
}

/// What becomes of a request of this user.
fn decided(policy: &Policy, uid: u32, request: &Launch) -> Decision {
    let peer = Peer::Process {
        uid,
        gid: uid,
        pid: 4711,
    };
    decide(policy, &peer, request)
}

fn allowed(policy: &Policy, request: &Launch) -> LaunchPlan {
    match decided(policy, AGENT, request) {
        Decision::Allow(plan) => *plan,
        Decision::Deny(denial) => panic!("denied: {}", denial.message),
    }
}

fn denied(policy: &Policy, uid: u32, request: &Launch) -> Reason {
    match decided(policy, uid, request) {
        Decision::Allow(plan) => panic!("allowed: {plan:?}"),
        Decision::Deny(denial) => denial.reason,
    }
}

fn haproxy(netns: &str, network: &str) -> Launch {
    let file = format!("/var/lib/neutron/ns-metadata-proxy/{network}.conf");
    request("haproxy", Some(netns), &["-f", &file])
}

/// The agent's user.
const AGENT: u32 = 42435;
/// The presets with Neutron's dnsmasq in it.
const DNSMASQ: [&str; 2] = ["demo", "neutron-dhcp"];

#[test]
fn every_preset_loads_and_leaves_no_lint_unanswered() {
    let mut seen = 0;
    for file in directory().read_dir().unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (_, lints) = preset(name, "agent");
        let lints: Vec<String> = lints.iter().map(ToString::to_string).collect();
        assert!(lints.is_empty(), "{name}: {lints:?}");
        seen += 1;
    }
    assert!(seen >= DNSMASQ.len(), "{seen}");
}

#[test]
fn two_agents_of_one_preset_share_no_container_name() {
    for name in DNSMASQ {
        let (one, _) = preset(name, "one");
        let (two, _) = preset(name, "two");
        assert_eq!(one.shared_names(&two), Vec::new(), "{name}");
    }
}

#[test]
fn neutrons_dnsmasq_is_allowed_as_the_agents_user_and_never_as_root() {
    for name in DNSMASQ {
        let (policy, _) = preset(name, "agent");
        let plan = allowed(&policy, &dnsmasq());
        assert_eq!(plan.rule(), "dnsmasq");
        assert_eq!(plan.name(), format!("agent-dnsmasq-{A}"));
        assert!(podman(&plan).contains(&"--user=42435:42435".to_owned()));
        assert_eq!(plan.host_pid(), name == "neutron-dhcp");
    }
}

#[test]
fn other_networks_files_and_a_script_are_denied() {
    for name in DNSMASQ {
        let (policy, _) = preset(name, "agent");
        let deny = |request: &Launch| denied(&policy, AGENT, request);
        let files_of_b = request(
            "dnsmasq",
            Some(&format!("qdhcp-{A}")),
            &dnsmasq_args(B)
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        );
        assert_eq!(deny(&files_of_b), Reason::Argument, "{name}");
        assert_eq!(
            deny(&dnsmasq_with("--dhcp-script=/var/lib/neutron/own.sh")),
            Reason::Argument
        );
        let mut elsewhere = dnsmasq();
        elsewhere.netns = Some(format!("qrouter-{A}"));
        assert_eq!(deny(&elsewhere), Reason::Netns);
        assert_eq!(deny(&request("sh", None, &["-c", "id"])), Reason::NoRule);
    }
}

#[test]
fn neutrons_segments_and_metadata_are_in_the_preset_for_its_dhcp_agent() {
    let (policy, _) = preset("neutron-dhcp", "agent");
    let plan = allowed(&policy, &in_segment(dnsmasq()));
    assert_eq!(plan.rule(), "dnsmasq-segment");
    assert_eq!(plan.name(), format!("agent-dnsmasq-1001-{A}"));
    let plan = allowed(&policy, &haproxy(&format!("qdhcp-{A}"), A));
    assert_eq!(plan.rule(), "haproxy");
    let targets: Vec<&str> = plan.mounts().iter().map(|m| &*m.target).collect();
    let configuration = format!("/var/lib/neutron/ns-metadata-proxy/{A}.conf");
    let directories = [
        "/var/lib/neutron/metadata",
        "/var/lib/neutron/external/pids",
    ];
    assert_eq!(targets, [&*configuration, directories[0], directories[1]]);

    let mut mixed = in_segment(dnsmasq());
    mixed.args[2] = mixed.args[2].replace("/1001/", "/1002/");
    for (request, reason) in [
        (haproxy(&format!("qdhcp-{A}"), B), Reason::Argument),
        (haproxy(&format!("qrouter-{A}"), A), Reason::Netns),
        (mixed, Reason::Argument),
    ] {
        assert_eq!(denied(&policy, AGENT, &request), reason, "{request:?}");
    }
}

#[test]
fn the_commented_spools_of_the_preset_for_neutrons_dhcp_agent_are_a_policy() {
    let path = directory().join("neutron-dhcp.toml");
    let file = std::fs::read_to_string(path).unwrap();
    let uncommented = file.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
        _ => line,
    });
    let lines: Vec<&str> = uncommented.collect();
    let (policy, lints) = Policy::review(
        &AgentName::new("agent").unwrap(),
        &[text("neutron-dhcp.toml", &lines.join("\n"))],
    )
    .unwrap_or_else(|problems| panic!("{problems}"));
    let names: Vec<&str> = lints.iter().map(|lint| lint.name).collect();
    assert_eq!(names, ["peer-beside-spool"]);
    let netns = format!("qdhcp-{A}");
    for (dir, request, rule) in [
        ("dnsmasq", dnsmasq(), "dnsmasq"),
        ("dnsmasq", in_segment(dnsmasq()), "dnsmasq-segment"),
        ("haproxy", haproxy(&netns, A), "haproxy"),
    ] {
        let dir = format!("/var/lib/neutron/neutron-{dir}").into();
        let Decision::Allow(plan) = decide(&policy, &Peer::Spool { dir }, &request) else {
            panic!("denied: {rule}");
        };
        assert_eq!(plan.rule(), rule);
    }
}

#[test]
fn every_user_but_the_agents_is_turned_away() {
    for name in DNSMASQ {
        let (policy, _) = preset(name, "agent");
        assert_eq!(denied(&policy, 1000, &dnsmasq()), Reason::Peer, "{name}");
    }
}

/// The first example after `begin` in a document, up to `end`, reviewed.
fn example(path: &str, begin: &str, end: &str) -> Vec<Lint> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let document = std::fs::read_to_string(file).unwrap();
    let (_, example) = document.split_once(begin).unwrap();
    let example = example
        .split_once(end)
        .map_or(example, |(example, _)| example);
    let agent = AgentName::new("dhcp").unwrap();
    let reviewed = Policy::review(&agent, &[text(path, example)]);
    reviewed.unwrap_or_else(|problems| panic!("{problems}")).1
}

#[test]
fn examples_of_documents_have_no_findings() {
    for (path, begin, end) in [
        ("README.md", "```toml\n", "```"),
        ("docs/policy.md", "```toml\n", "```"),
        (
            "packaging/man/portcullis-policy.5",
            ".Bd -literal\n",
            ".Ed\n",
        ),
    ] {
        let lints: Vec<String> = example(path, begin, end)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(lints.is_empty(), "{path}: {lints:?}");
    }
}
