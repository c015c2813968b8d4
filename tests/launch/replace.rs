//! Replacing: how long the old one is given, and that it is the rule's own.

use portcullis_tests::{Host, holds, launch, launched};
use portcullis_wire::{Reason, Reply};
use rustix::process::Signal;

fn rules(container: &str, program: &str) -> String {
    format!(
        r#"
[[launch]]
rule = "old"
command = "old"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "{program}", "sh"]
args = ["{{:int}}"]
[launch.container]
name = "same-name"
user = "0:0"
{container}
"#
    )
}

#[test]
fn a_program_that_does_not_hear_the_polite_signal_is_replaced_though_its_patience_is_longer_than_the_deadline()
 {
    let host = Host::new();
    let rules = rules(
        "stop_timeout = \"11s\"",
        "trap '' TERM; while :; do sleep 0.05; done",
    );
    let agent = host.agent("blue", &rules).engine("deadline = \"10s\"");
    let service = agent.start();
    let first = launched(service.client().launch(launch("old", &["1"])));
    let old = first.process();
    let second = launched(service.client().launch(launch("old", &["2"])));
    assert!(!second.reused && !old.is_alive());
    assert_eq!(host.engine().containers().len(), 1);
}

#[test]
fn a_program_is_asked_politely_first_however_short_its_patience_is() {
    let host = Host::new();
    let rules = rules(
        "stop_timeout = \"500ms\"\nmounts = [{ source = \"{shared}\", mode = \"rw\" }]",
        "trap 'echo >SHARED/asked; exit 0' TERM; while :; do sleep 0.05; done",
    );
    let rules = rules.replace("SHARED", &host.shared().display().to_string());
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    let asked = host.shared().join("asked");
    let mut runs = launched(service.client().launch(launch("old", &["1"])));
    // A busy machine may let its second pass before it has answered: another one is asked then.
    for number in 2..=5 {
        let _ = runs.process().that_handles(Signal::TERM);
        runs = launched(
            service
                .client()
                .launch(launch("old", &[&number.to_string()])),
        );
        if asked.exists() {
            break;
        }
    }
    assert!(asked.exists());
    let calls = host.engine().calls();
    let mut stops = calls.all().iter().filter(|c| c.subcommand() == "stop");
    assert_eq!(stops.next().unwrap().values("--time"), ["1"]);
}

#[test]
fn a_side_container_of_another_rule_is_neither_replaced_nor_kept_nor_reused() {
    for on_conflict in ["replace", "keep", "refuse"] {
        let host = Host::new();
        let program = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
        let rules = rules(&format!("on_conflict = \"{on_conflict}\""), program);
        let agent = host.agent("blue", &rules);
        let service = agent.start();
        let first = launched(service.client().launch(launch("old", &["1"])));
        agent.write_policy(&agent.policy_text().replace("\"old\"", "\"new\""));
        service.reload();
        // First with all the same but the rule.
        for argument in ["1", "2"] {
            match service.client().launch(launch("new", &[argument])) {
                Reply::Denied {
                    reason, message, ..
                } => {
                    assert_eq!(reason, Reason::Name);
                    assert!(message.contains("rule old"), "{message}");
                }
                other => panic!("{on_conflict}: {other:?}"),
            }
        }
        let container = host.engine().container("same-name");
        assert_eq!(
            (&container.id, container.pid),
            (&first.container, first.pid)
        );
        assert_eq!(container.labels["io.portcullis.rule"], "old");
        // Once it has ended, the name is free.
        container.process().signal(Signal::KILL);
        holds("the new rule has the name", || {
            matches!(
                service.client().launch(launch("new", &["1"])),
                Reply::Launched { .. }
            )
        });
    }
}
