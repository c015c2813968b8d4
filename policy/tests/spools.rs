//! Lines of a spool: which rules they can use, and what who writes them cannot do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_policy::{Decision, Denial, LaunchPlan, Peer, Policy, decide};
use portcullis_wire::{Launch, Reason};
use support::*;

/// Two commands with a spool each, and `both` beside them, whose first rule is for the socket alone.
const SPOOLS: &str = r#"
version = 1

[peer]
uid = 5

[vars]
state = "/var/lib/x"

[[spool]]
command = "both"
dir = "{state}/{command}"

[[spool]]
command = "line"
dir = "/srv/{agent}"
lock = "/run/lock/containers/line-processes.lock"

[[launch]]
rule = "socket"
command = "both"
image = "localhost/i:1"
args = ["--socket", "--debug"]
[launch.container]
name = "socket"
user = "1000:1000"

[[launch]]
rule = "both"
command = "both"
image = "localhost/i:1"
spool = true
args = ["--both", "--debug"]
[launch.container]
name = "both"
user = "1000:1000"

[[launch]]
rule = "line"
command = "line"
image = "localhost/i:1"
spool = true
args = ["--line"]
[launch.container]
name = "line"
user = "1000:1000"

[[launch]]
rule = "no-line"
command = "no-line"
image = "localhost/i:1"
[launch.container]
name = "no-line"
user = "1000:1000"
"#;

fn spool(dir: &str) -> Peer {
    Peer::Spool { dir: dir.into() }
}

fn line(policy: &Policy, dir: &str, request: &Launch) -> Result<LaunchPlan, Denial> {
    match decide(policy, &spool(dir), request) {
        Decision::Allow(plan) => Ok(*plan),
        Decision::Deny(denial) => Err(denial),
    }
}

#[test]
fn a_spool_has_a_directory_and_a_lock_in_it_unless_the_policy_names_one() {
    let policy = loaded(SPOOLS);
    let [both, line] = policy.spools() else {
        panic!("{:?}", policy.spools());
    };
    assert_eq!((&*both.command, &*both.dir), ("both", "/var/lib/x/both"));
    assert_eq!(&*both.lock, "/var/lib/x/both/lock");
    assert_eq!(both.processes(), "/var/lib/x/both/processes");
    assert_eq!(both.timestamp(), "/var/lib/x/both/processes-timestamp");
    assert_eq!((&*line.command, &*line.dir), ("line", "/srv/dhcp"));
    assert_eq!(&*line.lock, "/run/lock/containers/line-processes.lock");
}

#[test]
fn a_line_is_launched_by_a_rule_that_takes_lines_and_by_no_other() {
    let policy = loaded(SPOOLS);
    let ask = |args: &[&str]| line(&policy, "/var/lib/x/both", &request("both", None, args));
    assert_eq!(ask(&["--both"]).unwrap().rule(), "both");
    let denial = ask(&["--socket"]).unwrap_err();
    assert_eq!(denial.reason, Reason::Argument);
    assert_eq!(denial.rule.as_deref(), Some("both"));
    // The first rule would match, and a line does not see it.
    assert_eq!(ask(&["--debug"]).unwrap().rule(), "both");
}

#[test]
fn a_line_of_another_spool_or_of_none_is_of_nobody() {
    let policy = loaded(SPOOLS);
    for (dir, command, told) in [
        ("/srv/other", "line", "the policy has no [[spool]] at"),
        ("/srv/dhcp/", "line", "the policy has no [[spool]] at"),
        ("", "line", "the policy has no [[spool]] at"),
        ("/var/lib/x/both", "line", "is for the command \"both\""),
        ("/srv/dhcp", "both", "is for the command \"line\""),
        ("/srv/dhcp", "no-line", "is for the command \"line\""),
        ("/srv/dhcp", "bash", "is for the command \"line\""),
    ] {
        let denial = line(&policy, dir, &request(command, None, &[])).unwrap_err();
        assert_eq!((denial.reason, denial.rule), (Reason::Peer, None));
        assert!(denial.message.contains(told), "{}", denial.message);
    }
}

#[test]
fn a_process_uses_rules_with_and_without_spool() {
    let policy = loaded(SPOOLS);
    let process = |uid| Peer::Process {
        uid,
        gid: 0,
        pid: 1,
    };
    for (command, argument, rule) in [
        ("both", "--socket", "socket"),
        ("both", "--both", "both"),
        ("line", "--line", "line"),
    ] {
        let request = request(command, None, &[argument]);
        let Decision::Allow(plan) = decide(&policy, &process(5), &request) else {
            panic!("denied");
        };
        assert_eq!(plan.rule(), rule);
        assert!(matches!(
            decide(&policy, &process(6), &request),
            Decision::Deny(_)
        ));
    }
}
