//! `on_conflict`: what becomes of a side container of ours that has the name and is not the same.

use portcullis_tests::{Host, holds, launch, launched};
use portcullis_wire::{Reason, Reply};

/// It ends at once when it is asked to.
const PROGRAM: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

fn rules(on_conflict: &str) -> String {
    format!(
        r#"
[[launch]]
rule = "same-name"
command = "same-name"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "{PROGRAM}", "sh"]
args = ["{{:int}}"]
[launch.container]
name = "same-name"
user = "0:0"
on_conflict = "{on_conflict}"

[[launch]]
rule = "other"
command = "other"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "{PROGRAM}", "sh"]
[launch.container]
name = "other"
user = "0:0"
"#
    )
}

fn reason(reply: Reply) -> Reason {
    match reply {
        Reply::Failed(failure) => failure.reason,
        Reply::Denied { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn replace_stops_and_removes_the_old_one_and_starts_the_new_one() {
    let host = Host::new();
    let agent = host.agent("blue", &rules("replace"));
    let service = agent.start();
    let first = launched(service.client().launch(launch("same-name", &["1"])));
    let old = first.process();
    let second = launched(service.client().launch(launch("same-name", &["2"])));
    assert!(!second.reused && !old.is_alive());
    let containers = host.engine().containers();
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0].id, second.container);
    assert_eq!(second.process().arguments().last().unwrap(), "2");
    // Never by podman's own hand, which would also remove a stranger's.
    for call in host.engine().calls().all() {
        assert!(
            !call.arguments.iter().any(|a| a.starts_with("--replace")),
            "{call:?}"
        );
    }
}

#[test]
fn refuse_leaves_the_old_one_and_says_so() {
    let host = Host::new();
    let agent = host.agent("blue", &rules("refuse"));
    let service = agent.start();
    let first = launched(service.client().launch(launch("same-name", &["1"])));
    let reply = service.client().launch(launch("same-name", &["2"]));
    assert_eq!(reason(reply), Reason::Name);
    let container = host.engine().container("same-name");
    assert_eq!((container.id, container.pid), (first.container, first.pid));
}

#[test]
fn keep_leaves_the_old_one_and_starts_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", &rules("keep"));
    let service = agent.start();
    let first = launched(service.client().launch(launch("same-name", &["1"])));
    let second = launched(service.client().launch(launch("same-name", &["2"])));
    assert!(second.reused, "nothing new was started, and it says so");
    assert_eq!(
        (&second.container, second.pid),
        (&first.container, first.pid)
    );
    assert_eq!(host.engine().calls().runs().len(), 1);
}

#[test]
fn an_ended_one_is_no_conflict() {
    for on_conflict in ["replace", "keep", "refuse"] {
        let host = Host::new();
        let agent = host.agent("blue", &rules(on_conflict));
        let service = agent.start();
        let first = launched(service.client().launch(launch("same-name", &["1"])));
        let old = first.process();
        old.signal(rustix::process::Signal::KILL);
        holds("it is gone", || !old.is_alive());
        let second = launched(
            service
                .client()
                .launch_patiently(&launch("same-name", &["2"])),
        );
        assert!(
            !second.reused && second.container != first.container,
            "{on_conflict}"
        );
        holds("one is left", || host.engine().containers().len() == 1);
    }
}

#[test]
fn a_repeat_of_a_plan_of_before_a_reload_is_not_reused_when_the_plan_has_changed() {
    let host = Host::new();
    let agent = host.agent("blue", &rules("replace"));
    let service = agent.start();
    let first = launched(service.client().launch(launch("other", &[])));
    let changed = agent.policy_text().replace(
        "name = \"other\"\nuser = \"0:0\"",
        "name = \"other\"\nuser = \"0:0\"\ncapabilities = [\"NET_ADMIN\"]",
    );
    assert_ne!(changed, agent.policy_text());
    agent.write_policy(&changed);
    service.reload();
    let second = launched(service.client().launch(launch("other", &[])));
    assert!(!second.reused && second.container != first.container);
    assert_eq!(second.process().capabilities("CapEff"), 1 << 12);
    assert_eq!(host.engine().containers().len(), 1);
}
