//! `systemctl reload`: under load, and with a policy that is broken.

use crate::agent::{Agent, UID, policy};
use portcullis_tests::{Machine, holds, until};
use serde_json::Value;
use std::collections::BTreeMap;

const RELOADS: usize = 1000;

/// A rule whose two halves come from different tables: a mix of two policies would allow `--one=a --two=b`.
fn pair(letter: &str) -> String {
    format!(
        r#"
version = 1
[peer]
uid = [0, {UID}]
[limits]
launches = "100000/s"
in_flight = 512
[vars]
one = "{letter}"
[[launch]]
rule = "pair-{letter}"
command = "pair"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000"]
args = [{{ min = 1, pattern = "--one={{one}}" }}, {{ min = 1, pattern = "--two={letter}" }}]
[launch.container]
name = "pair-{letter}"
user = "42435:42435"
environment = ["ONE={{one}}", "TWO={letter}"]
pids = 0
"#
    )
}

#[test]
fn a_thousand_reloads_under_load_mix_no_two_policies() {
    let machine = Machine::with_package();
    let agent = Agent::new(&machine, "demo", "");
    machine.give(env!("CARGO_BIN_EXE_load").as_ref(), "/usr/local/bin/load");
    for letter in ["a", "b"] {
        machine.write(&format!("/root/{letter}.toml"), &pair(letter));
    }
    let ping = || {
        let ping: Value = serde_json::from_str(&agent.must("portcullis ping --json")).unwrap();
        ping["generation"].as_str().unwrap().to_owned()
    };
    // What is left of the policy before answers until the new broker serves.
    let generation = |letter: &str, before: &str| {
        machine.must(&format!(
            "cp /root/{letter}.toml {path}.new && mv {path}.new {path} && \
             systemctl reload-or-restart portcullis@demo.service",
            path = agent.policy_path()
        ));
        until("it is in force", || {
            let generation = ping();
            (generation != before).then_some(generation)
        })
    };
    let a = generation("a", "");
    let b = generation("b", &a);

    agent.must("touch /srv/demo/go");
    let mut load = machine.command("sh");
    let line = agent.line("load pairs /run/portcullis/broker.sock /srv/demo/go");
    let load = load.args(["-c", &line]);
    let load = load.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Each waits until its policy is in force, or two of them would be one to the launcher.
    machine.must(&format!(
        "reload() {{
            cp /root/$1.toml {path}.new && mv {path}.new {path} && systemctl reload portcullis@demo.service || exit 1
            until portcullis --socket /run/portcullis/demo/broker.sock ping --json | grep -q $2; do :; done
        }}
        for n in $(seq {half}); do reload a {a}; reload b {b}; done",
        path = agent.policy_path(),
        half = RELOADS / 2,
    ));
    agent.must("rm /srv/demo/go");
    let done = load.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let counts: BTreeMap<String, u64> = serde_json::from_slice(&done.stdout).unwrap();
    println!("{RELOADS} reloads, and meanwhile: {counts:?}");
    let wanted = [
        "aa allowed",
        "bb allowed",
        "aa launched as pair-a",
        "bb launched as pair-b",
        "denied",
    ];
    for what in wanted {
        assert!(
            counts.get(what).is_some_and(|n| *n > 10),
            "{what}: {counts:?}"
        );
    }
    let mut others = counts.keys().filter(|key| !wanted.contains(&key.as_str()));
    assert!(
        others.all(|key| ["busy", "not sent"].contains(&key.as_str())),
        "{counts:?}"
    );
    // The same of what was made, and of what the operator reads.
    for letter in ["a", "b"] {
        let environment = machine.must(&format!(
            "podman inspect --format='{{{{.Config.Env}}}}' pair-{letter}"
        ));
        assert!(
            environment.contains(&format!("ONE={letter}")),
            "{environment}"
        );
        assert!(
            environment.contains(&format!("TWO={letter}")),
            "{environment}"
        );
        for record in machine.journal(&format!(
            "PORTCULLIS_NAME=pair-{letter} PORTCULLIS_BY=launcher"
        )) {
            let both = format!("'--one={letter}' '--two={letter}'");
            assert_eq!(record["PORTCULLIS_ARGS"], both.as_str(), "{record}");
            assert_eq!(
                record["PORTCULLIS_RULE"],
                format!("pair-{letter}").as_str(),
                "{record}"
            );
        }
    }
    assert_eq!(machine.property(&agent.service_unit(), "NRestarts"), "0");
}

#[test]
fn invariant_5_a_broken_policy_fails_the_reload_keeps_the_old_one_and_turns_the_status_line() {
    let machine = Machine::with_package();
    let agent = Agent::new(&machine, "demo", "");
    let status = || machine.property(&agent.service_unit(), "StatusText");
    let generation = || agent.must("portcullis ping --json | grep -o '\"generation\":\"[^\"]*'");
    let before = generation();
    assert!(!status().contains("broken"), "{}", status());

    agent.write_policy("version = 1\n[[launch]]\nrule = ");
    let reload = machine.shell("systemctl reload portcullis@demo.service");
    assert!(!reload.status.success(), "whoever reloads is told");
    holds("the status line says so", || status().contains("broken"));
    assert_eq!(generation(), before);
    assert!(agent.is_serving());

    agent.write_policy(&policy("demo", "[limits]\nrunning = 7\n"));
    machine.must("systemctl reload portcullis@demo.service");
    holds("the status line is mended", || !status().contains("broken"));
    // Until the new broker serves, the one before answers.
    holds("the new policy is in force", || generation() != before);
}
