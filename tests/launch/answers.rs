//! That every answer is true, and what the audit record says of it.

use portcullis_tests::{Host, SLEEP, denied, failed, holds, launch, launched};
use portcullis_wire::{Reason, Reply};

const ENDS: &str = r#"
[[launch]]
rule = "ends"
command = "ends"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "exit 7"]
[launch.container]
name = "ends"
user = "0:0"
"#;

#[test]
fn launched_says_what_podman_says() {
    let host = Host::new();
    let agent = host.agent("blue", &[SLEEP, ENDS].concat());
    let service = agent.start();
    let answer = launched(service.client().launch(launch("sleep", &["1000"])));
    let container = host.engine().container("sleep-1000");
    assert_eq!(
        (&answer.container, answer.pid),
        (&container.id, container.pid)
    );
    assert!(
        answer.container.len() == 64 && answer.container.bytes().all(|b| b.is_ascii_hexdigit())
    );
    assert_eq!(answer.process().arguments(), ["/bin/sleep", "1000"]);
    assert_eq!(container.labels["io.portcullis.agent"], "blue");
    assert_eq!(container.labels["io.portcullis.rule"], "sleep");
    assert_eq!(container.labels["io.portcullis.plan"].len(), 64);
}

#[test]
fn a_program_that_has_ended_before_it_was_seen_is_not_launched() {
    let host = Host::new();
    let agent = host.agent("blue", &[SLEEP, ENDS].concat());
    let service = agent.start();
    host.engine().outlast();
    let failure = failed(service.client().launch(launch("ends", &[])));
    assert_eq!((failure.reason, failure.exit), (Reason::Exited, Some(7)));
    holds("it is removed", || host.engine().containers().is_empty());
}

#[test]
fn one_audit_record_for_each_decision_and_its_phases() {
    let host = Host::new();
    let agent = host.agent("blue", &[SLEEP, ENDS].concat());
    let service = agent.start();
    let mut client = service.client();
    let answer = launched(client.launch(launch("sleep", &["1000"])));
    let _ = failed_or_launched(client.launch(launch("ends", &[])));
    let mut reboot = launch("reboot", &["--force", "a b", "\n'"]);
    reboot.netns = Some("qdhcp-1".into());
    assert_eq!(denied(client.launch(reboot)), Reason::NoRule);
    holds("three records", || service.audit().records().len() == 3);
    let audit = service.audit();
    let records = audit.with("name", "sleep-1000");
    assert_eq!(records.len(), 1, "{records:?}");
    let record = records[0];
    assert_eq!(record["rule"], "sleep");
    assert_eq!(record["container"], answer.container.as_str());
    let text = record.to_string();
    for phase in ["decided", "prepared", "podman", "ready", "answered"] {
        assert!(text.contains(phase), "{phase} in {text}");
    }
    let denial = &audit.with("reason", "no-rule");
    assert_eq!(denial.len(), 1, "{audit:?}");
    assert_eq!(denial[0]["by"], "broker");
    // The broker's own denials say what was asked for, as the launcher's do.
    assert_eq!(denial[0]["command"], "reboot");
    assert_eq!(denial[0]["args"], r"'--force' 'a b' '\n\''");
    assert_eq!(denial[0]["netns"], "qdhcp-1");
    assert_eq!(denial[0]["peer_gid"], 0);
}

fn failed_or_launched(reply: Reply) -> Option<Reason> {
    match reply {
        Reply::Launched { .. } => None,
        other => Some(failed(other).reason),
    }
}

#[test]
fn the_operators_socket_pings_explains_and_lists_and_launches_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", &[SLEEP, ENDS].concat());
    let service = agent.start();
    let answer = launched(service.client().launch(launch("sleep", &["1000"])));
    let mut operator = service.operator();
    assert!(operator.is_served());
    let mut dry = launch("sleep", &["2000"]);
    dry.dry_run = true;
    let Reply::Explained { allowed, report } = operator.launch(dry.clone()) else {
        panic!()
    };
    assert!(
        allowed && report.contains("podman") && report.contains("--name=sleep-2000"),
        "{report}"
    );
    dry.args.push("--privileged".into());
    let Reply::Explained { allowed, report } = operator.launch(dry) else {
        panic!()
    };
    assert!(!allowed && report.contains("--privileged"), "{report}");
    match operator.launch(launch("sleep", &["3000"])) {
        Reply::Denied { reason, .. } => {
            assert!([Reason::Peer, Reason::Unsupported].contains(&reason))
        }
        other => panic!("{other:?}"),
    }
    let items = service.list(true);
    assert_eq!(items.len(), 1);
    assert_eq!(
        (&items[0].name, &items[0].container),
        (&answer.name, &answer.container)
    );
    assert_eq!(host.engine().calls().runs().len(), 1);
}
