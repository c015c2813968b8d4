//! The invariants that this crate answers for; the second has its other half in `src/plan.rs`, as code that must not
//! compile: `invariant_2_nobody_outside_this_crate_makes_a_launch_plan` among the documentation's tests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_policy::{Decision, LaunchPlan, Peer, decide};
use portcullis_wire::Launch;
use proptest::prelude::*;
use support::*;

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,20}",
        "[-=/:,a-z0-9. ]{0,20}",
        prop::sample::select(vec![
            "--privileged",
            "--",
            "-v",
            "-v/:/host",
            "--volume=/:/host",
            "--network=host",
            "--name=x",
            "--entrypoint=/bin/sh",
            "--env=LD_PRELOAD=/x",
            "--label=io.portcullis.agent=y",
            "--pid=host",
            "",
            "-",
            "a\nb",
            "--security-opt=seccomp=unconfined",
        ])
        .prop_map(str::to_owned),
    ]
}

/// One rule with every place where something of a request can go.
fn open_policy() -> &'static portcullis_policy::Policy {
    static POLICY: std::sync::LazyLock<portcullis_policy::Policy> = std::sync::LazyLock::new(
        || {
            loaded(&one_rule(
                "netns = \"{ns:word}\"\nprogram = [\"/bin/x\"]\nargs = [{ max = 50, any = [\"{:text}\", \"-{:text}\", \"\"] }]\n\
             env = [{ max = 9, pattern = \"A={:text}\" }]",
                "name = \"c-{ns}\"\nenvironment = [\"NS={ns}\"]\n\
             mounts = [{ source = \"/srv/{ns}\", target = \"/data/{ns}\", mode = \"rw\" }]\nready = { pid_file = \"/run/{ns}.pid\" }",
            ))
        },
    );
    &POLICY
}

/// The options: what stands before `--`.
fn options(plan: &LaunchPlan) -> Vec<String> {
    let podman = podman(plan);
    let end = podman.iter().position(|word| word == "--").unwrap();
    assert_eq!(podman[end + 1], "IMAGE_ID");
    podman[..end].to_vec()
}

fn name_of(option: &str) -> &str {
    option.split_once('=').map_or(option, |(name, _)| name)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn invariant_1_nothing_a_client_sends_becomes_a_podman_option(
        netns in prop_oneof![hostile(), "[a-z][a-z0-9.-]{0,9}"],
        args in prop::collection::vec(hostile(), 0..8),
        value in hostile(),
        image in prop::option::of(hostile()),
    ) {
        let policy = open_policy();
        let plain = options(&allowed(policy, &request("c", Some("n"), &[])));
        let request = Launch {
            command: "c".to_owned(),
            args,
            netns: Some(netns.clone()),
            image,
            env: vec![format!("A={value}")],
            ..Launch::default()
        };
        if let Decision::Allow(plan) = decide(policy, &ROOT, &request) {
            let found = options(&plan);
            let without_env: Vec<&String> = found.iter().filter(|o| !o.starts_with("--env=A=")).collect();
            prop_assert_eq!(without_env.len() + 1, found.len());
            let asked = format!("--env=A={value}");
            prop_assert!(found.contains(&asked));
            // The same options in the same order; only values differ, and those in what the rule's patterns allowed.
            prop_assert_eq!(plain.len(), without_env.len());
            for (before, after) in plain.iter().zip(without_env) {
                prop_assert_eq!(name_of(before), name_of(after));
                if before != after {
                    let expected = match name_of(before) {
                        "--name" => format!("--name=c-{netns}"),
                        "--env" => format!("--env=NS={netns}"),
                        "--volume" => format!("--volume=/staged/1:/data/{netns}:rw,nosuid,nodev"),
                        "--label" => format!("--label=io.portcullis.plan={}", plan.hash()),
                        other => panic!("{other} changed"),
                    };
                    prop_assert_eq!(after, &expected);
                }
            }
            let podman = podman(&plan);
            prop_assert!(podman.ends_with(&request.args));
        }
    }

    #[test]
    fn every_option_has_its_value_with_it(at in 0usize..3) {
        let requests = [dnsmasq(), request("haproxy", Some(&format!("qdhcp-{A}")), &["-f", &format!("/var/lib/neutron/ns-metadata-proxy/{A}.conf")]), dnsmasq_with("--log-dhcp")];
        let found = options(&allowed(neutron(), &requests[at]));
        prop_assert_eq!(&found[..2], ["run", "--detach"]);
        for option in &found[2..] {
            prop_assert!(option.starts_with("--") && option.contains('='), "{}", option);
        }
    }

    #[test]
    fn nothing_that_is_sent_makes_a_decision_panic(
        command in prop_oneof![Just("dnsmasq".to_owned()), hostile()],
        netns in prop::option::of(prop_oneof![Just(format!("qdhcp-{A}")), hostile()]),
        args in prop::collection::vec(prop_oneof![hostile(), prop::sample::select(dnsmasq_args(A))], 0..20),
        env in prop::collection::vec(hostile(), 0..3),
        image in prop::option::of(hostile()),
    ) {
        let request = Launch { command, args, netns, image, env, ..Launch::default() };
        let decision = decide(neutron(), &ROOT, &request);
        let explained = portcullis_policy::explain(neutron(), &ROOT, &request);
        prop_assert_eq!(matches!(decision, Decision::Allow(_)), explained.allowed);
        if let Decision::Deny(denial) = decision {
            prop_assert!(!denial.message.contains('\n') && denial.message.chars().count() < 2000);
        }
        let _ = explained.to_string();
    }
}

/// Two requests that differ in one thing have different plans.
#[test]
fn invariant_2_the_hash_covers_every_field_that_shapes_the_container() {
    let base =
        |rule: &str, container: &str| one_rule(rule, &format!("name = \"c-x\"\n{container}"));
    let hash = |toml: &str, request: &Launch| {
        let policy = loaded(toml);
        allowed(&policy, request).hash().to_owned()
    };
    let plain = ask(&[]);
    let mut hashes = vec![hash(&base("", ""), &plain)];
    assert_eq!(hashes[0].len(), 64);
    assert_eq!(
        hashes[0],
        hash(&base("", "on_conflict = \"keep\""), &plain),
        "not part of the container"
    );
    for container in [
        "capabilities = [\"CHOWN\"]",
        "pid = \"host\"",
        "network = \"host\"",
        "privileged = true",
        "read_only = false",
        "no_new_privileges = false",
        "devices = [\"/dev/null\"]",
        "memory = \"64MiB\"",
        "pids = 9",
        "log = \"none\"",
        "selinux = \"disable\"",
        "apparmor = \"unconfined\"",
        "seccomp = \"unconfined\"",
        "stop_timeout = \"99s\"",
        "environment = [\"A=1\"]",
        "ready = { pid_file = \"/x\" }",
        "mounts = [{ source = \"/srv/a\", mode = \"ro\" }]",
        "mounts = [{ source = \"/srv/a\", mode = \"rw\" }]",
        "mounts = [{ source = \"/srv/a\", target = \"/b\", mode = \"rw\" }]",
    ] {
        hashes.push(hash(&base("", container), &plain));
    }
    for (from, to) in [
        ("c-x", "c-y"),
        ("1000:1000", "1000:1001"),
        ("localhost/i:1", "localhost/i:2"),
        ("rule = \"r\"", "rule = \"s\""),
    ] {
        hashes.push(hash(&base("", "").replace(from, to), &plain));
    }
    hashes.push(hash(&base("program = [\"/x\"]", ""), &plain));
    hashes.push(hash(&base("program = [\"/x\", \"y\"]", ""), &plain));
    hashes.push(hash(&base("args = [\"a\"]", ""), &ask(&["a"])));
    hashes.push(hash(&base("args = [\"\"]", ""), &ask(&[""])));
    let mut env = ask(&[]);
    env.env = vec!["A=2".to_owned()];
    hashes.push(hash(&base("env = [\"A={:int}\"]", ""), &env));
    hashes.push(hash(
        &base("netns = \"n\"", ""),
        &request("c", Some("n"), &[]),
    ));
    let count = hashes.len();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), count);
}

#[test]
fn invariant_4_a_denial_is_short_whatever_was_sent() {
    let long = "x".repeat(60 * 1024);
    for request in [
        ask(&[&long]),
        request(&long, None, &[]),
        request("c", Some(&long), &[]),
    ] {
        let Decision::Deny(denial) = decide(&rule("args = [\"--y\"]"), &ROOT, &request) else {
            panic!("allowed");
        };
        assert!(denial.message.len() < 1024);
    }
}

#[test]
fn invariant_5_a_peer_that_the_policy_does_not_admit_learns_nothing_of_its_rules() {
    let peer = Peer::Process {
        uid: 7,
        gid: 7,
        pid: 7,
    };
    for request in [dnsmasq(), dnsmasq_with("--x"), request("bash", None, &[])] {
        let Decision::Deny(denial) = decide(neutron(), &peer, &request) else {
            panic!("allowed");
        };
        assert_eq!(denial.message, "the policy's [peer] does not admit uid 7");
        assert_eq!(denial.rule, None);
    }
}
