//! Answers, and the exit codes and texts that they become.

use super::*;
use crate::line::LineError;
use crate::way::Way;
use crate::whom::Whom;
use portcullis_wire::{AgentName, Launch};
use rustix::io::Errno;
use std::time::Duration;

fn question(manner: Manner, body: Body) -> Question {
    Question {
        whom: Whom::Socket("/s".into()),
        way: Way::Socket,
        body,
        patience: Duration::from_secs(1),
        manner,
    }
}

fn launch(manner: Manner, dry_run: bool) -> Question {
    let launch = Launch {
        command: "dnsmasq".into(),
        dry_run,
        ..Launch::default()
    };
    question(manner, Body::Launch(launch))
}

fn launched() -> Reply {
    Reply::Launched {
        container: "0123456789abcdef".repeat(4),
        name: "neutron-x".into(),
        pid: 42,
        reused: false,
    }
}

fn failure(reason: Reason, exit: Option<u8>) -> Reply {
    Reply::Failed(Failure {
        reason,
        exit,
        message: "it ended".into(),
        output: "one\n\u{1b}two".into(),
    })
}

fn denial() -> Reply {
    Reply::Denied {
        reason: Reason::Argument,
        rule: Some("dnsmasq".into()),
        message: "rule \"dnsmasq\": \"--dhcp-script=/x\"\nmatches nothing".into(),
    }
}

#[test]
fn an_applet_that_succeeds_says_nothing() {
    let outcome = of(&launch(Manner::Applet, false), launched());
    assert_eq!(outcome, Outcome::printed(String::new()));
}

#[test]
fn an_applet_writes_nothing_to_standard_output_whatever_comes() {
    for reply in [
        launched(),
        denial(),
        failure(Reason::Engine, None),
        Reply::NotFound,
    ] {
        assert_eq!(of(&launch(Manner::Applet, false), reply).out, "");
    }
}

#[test]
fn a_launch_is_told_on_one_line() {
    let outcome = of(&launch(Manner::Plain, false), launched());
    assert_eq!(
        outcome.out,
        "neutron-x runs: container 0123456789ab, process 42 on the host\n"
    );
    assert_eq!((outcome.code, outcome.err), (0, String::new()));
}

#[test]
fn a_denial_is_126_and_one_line_with_code_rule_reason_and_what_to_do() {
    let outcome = of(&launch(Manner::Applet, false), denial());
    assert_eq!(outcome.code, 126);
    assert_eq!(outcome.err.lines().count(), 1);
    assert_eq!(outcome.err.matches("rule").count(), 2, "{}", outcome.err);
    for needle in [
        "portcullis: dnsmasq: denied",
        "rule dnsmasq",
        "[argument]",
        "--dhcp-script=/x",
        "explain",
    ] {
        assert!(outcome.err.contains(needle), "{needle}: {}", outcome.err);
    }
}

#[test]
fn a_denial_by_code_alone_still_says_what_the_code_means() {
    let reply = Reply::Denied {
        reason: Reason::NoRule,
        rule: None,
        message: String::new(),
    };
    let outcome = of(&launch(Manner::Plain, false), reply);
    assert!(
        outcome.err.contains(Reason::NoRule.text()),
        "{}",
        outcome.err
    );
}

#[test]
fn a_program_that_ends_early_gives_its_own_code_and_its_last_words() {
    let outcome = of(
        &launch(Manner::Applet, false),
        failure(Reason::Exited, Some(3)),
    );
    assert_eq!(outcome.code, 3);
    assert!(
        outcome.err.ends_with("\n  one\n  \\u{1b}two\n"),
        "{:?}",
        outcome.err
    );
}

#[test]
fn a_failure_is_125_and_never_0() {
    for (reason, exit) in [
        (Reason::Exited, Some(0)),
        (Reason::Exited, None),
        (Reason::Engine, Some(3)),
        (Reason::Timeout, None),
    ] {
        assert_eq!(
            of(&launch(Manner::Plain, false), failure(reason, exit)).code,
            125,
            "{reason}"
        );
    }
}

#[test]
fn a_dry_run_is_told_by_its_report_and_its_code() {
    for (allowed, code) in [(true, 0), (false, 126)] {
        let reply = Reply::Explained {
            allowed,
            report: "rule a: no\nrule b: yes".into(),
        };
        let outcome = of(&launch(Manner::Plain, true), reply);
        assert_eq!(outcome.out, "rule a: no\nrule b: yes\n");
        assert_eq!(outcome.code, code);
    }
}

#[test]
fn an_answer_to_something_else_is_never_success() {
    let pong = Reply::Pong(Pong {
        agent: "a".into(),
        generation: String::new(),
        version: "1".into(),
        layers: vec![],
        landlock_abi: 0,
        peer_identification: "pidfd".into(),
    });
    assert_eq!(of(&launch(Manner::Plain, false), pong).code, 125);
    assert_eq!(of(&launch(Manner::Plain, true), launched()).code, 125);
    assert_eq!(
        of(&question(Manner::Plain, Body::Ping), launched()).code,
        125
    );
    let explained = Reply::Explained {
        allowed: true,
        report: String::new(),
    };
    assert_eq!(of(&launch(Manner::Plain, false), explained).code, 125);
    for reply in [Reply::NotFound, Reply::Done { exit: None }] {
        assert_eq!(of(&launch(Manner::Plain, false), reply).code, 125);
    }
}

#[test]
fn another_protocol_version_is_named() {
    let outcome = of(
        &launch(Manner::Plain, false),
        Reply::UnsupportedVersion { spoken: vec![2, 3] },
    );
    assert_eq!(outcome.code, 125);
    assert!(outcome.err.contains("[2, 3]"), "{}", outcome.err);
}

#[test]
fn every_answer_is_one_json_object_where_json_is_asked_for() {
    let replies = [
        (launched(), false),
        (denial(), false),
        (failure(Reason::Exited, Some(3)), false),
        (Reply::UnsupportedVersion { spoken: vec![2] }, false),
        (
            Reply::Explained {
                allowed: true,
                report: "a\nb".into(),
            },
            true,
        ),
        (Reply::NotFound, false),
    ];
    for (reply, dry_run) in replies {
        let outcome = of(&launch(Manner::Json, dry_run), reply);
        let read: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
        assert!(read["answer"].is_string(), "{}", outcome.out);
        assert_eq!(outcome.out.lines().count(), 1);
    }
    let read: serde_json::Value =
        serde_json::from_str(&of(&launch(Manner::Json, false), denial()).out).unwrap();
    assert_eq!(read["reason"], "argument");
    assert_eq!(read["rule"], "dnsmasq");
}

#[test]
fn a_ping_names_everything_that_answers() {
    let pong = Reply::Pong(Pong {
        agent: "dhcp".into(),
        generation: String::new(),
        version: "0.1.0".into(),
        layers: vec!["user".into(), "landlock".into()],
        landlock_abi: 6,
        peer_identification: "pidfd".into(),
    });
    let outcome = of(&question(Manner::Plain, Body::Ping), pong);
    for needle in [
        "dhcp",
        "policy-unavailable",
        "0.1.0",
        "user, landlock (Landlock ABI 6)",
        "pidfd",
    ] {
        assert!(outcome.out.contains(needle), "{needle}: {}", outcome.out);
    }
}

fn operators() -> [Body; 4] {
    let target = Target::Name("x".into());
    [
        Body::List {
            all: false,
            after: None,
        },
        Body::Stop {
            target: target.clone(),
            timeout: None,
        },
        Body::Logs {
            target,
            tail: None,
            follow: true,
        },
        Body::Metrics,
    ]
}

fn on_the_host(body: Body) -> Question {
    Question {
        whom: Whom::Launcher(AgentName::new("dhcp").unwrap()),
        ..question(Manner::Plain, body)
    }
}

#[test]
fn a_stop_tells_how_the_program_ended_and_is_no_failure() {
    let [_, stop, ..] = operators();
    let done = |exit| of(&on_the_host(stop.clone()), Reply::Done { exit });
    assert_eq!(
        done(Some(137)),
        Outcome::printed("x ended with exit code 137\n".into())
    );
    assert_eq!(done(None).code, 0);
    assert!(done(None).out.contains("not known"));
}

#[test]
fn the_end_of_a_log_that_was_followed_is_told_beside_it() {
    let [_, _, logs, _] = operators();
    let outcome = of(&on_the_host(logs), Reply::Done { exit: Some(3) });
    assert_eq!((outcome.code, outcome.out.as_str()), (0, ""));
    assert_eq!(outcome.err, "portcullis: x ended with exit code 3\n");
}

#[test]
fn a_side_container_that_is_not_there_is_125_and_ps_is_named() {
    let [_, stop, logs, _] = operators();
    for body in [stop, logs] {
        let outcome = of(&on_the_host(body), Reply::NotFound);
        assert_eq!(outcome.code, 125);
        let needle = "the agent dhcp has no side container x; ps";
        assert!(outcome.err.contains(needle), "{}", outcome.err);
    }
}

#[test]
fn a_list_that_does_not_go_on_is_never_taken_for_the_whole() {
    let [list, ..] = operators();
    let reply = Reply::Containers {
        items: vec![],
        more: true,
    };
    assert_eq!(of(&on_the_host(list), reply).code, 125);
}

#[test]
fn on_an_agents_own_socket_an_operators_question_is_sent_to_the_host() {
    for (body, word) in operators()
        .into_iter()
        .zip(["ps", "stop", "logs", "metrics"])
    {
        let reply = Reply::Denied {
            reason: Reason::Unsupported,
            rule: None,
            message: "not served here".into(),
        };
        let command = format!("on the host: portcullis --agent NAME {word}\n");
        let question = Question {
            whom: Whom::Broker,
            ..question(Manner::Plain, body)
        };
        let denied = of(&question, reply.clone());
        assert_eq!(denied.code, 126);
        assert!(denied.err.ends_with(&command), "{}", denied.err);
        let nobody = Outcome::unanswered(&question, &AskError::Unreachable(Errno::NOENT));
        assert!(nobody.err.ends_with(&command), "{}", nobody.err);
        // There already, only an older launcher does not serve it.
        let denied = of(&on_the_host(question.body), reply);
        assert!(denied.err.contains("newer"), "{}", denied.err);
    }
}

#[test]
fn a_launcher_that_cannot_be_reached_is_127_with_what_the_operator_can_do() {
    for (errno, needle) in [
        (
            Errno::NOENT,
            "systemctl enable --now portcullis@dhcp.socket",
        ),
        (
            Errno::CONNREFUSED,
            "systemctl enable --now portcullis@dhcp.socket",
        ),
        (Errno::ACCESS, "root"),
    ] {
        let outcome = Outcome::unanswered(&on_the_host(Body::Ping), &AskError::Unreachable(errno));
        assert_eq!(outcome.code, 127);
        assert_eq!(outcome.err.lines().count(), 1);
        for needle in [needle, "/run/portcullis-launcher/dhcp/control.sock"] {
            assert!(outcome.err.contains(needle), "{}", outcome.err);
        }
    }
}

#[test]
fn a_reader_that_has_had_enough_is_told_nothing() {
    let error = |kind: io::ErrorKind| AskError::Output(kind.into());
    let told = |kind| Outcome::unanswered(&on_the_host(Body::Metrics), &error(kind));
    let quiet = told(io::ErrorKind::BrokenPipe);
    assert_eq!((quiet.code, quiet.err.as_str()), (125, ""));
    assert!(
        told(io::ErrorKind::StorageFull)
            .err
            .contains("standard output")
    );
}

#[test]
fn a_launch_in_a_spool_is_told_on_one_line_and_why_no_broker_has_it() {
    let spool = Spool::new("/d".into());
    for manner in [Manner::Applet, Manner::Plain] {
        let outcome = Outcome::spooled(&launch(manner, false), &spool, None);
        let line =
            "portcullis: dnsmasq: written to /d/processes; the host starts it when it reads that\n";
        assert_eq!(
            (outcome.code, outcome.out.as_str(), outcome.err.as_str()),
            (0, "", line)
        );
    }
    let outcome = Outcome::spooled(&launch(Manner::Json, false), &spool, Some(Errno::NOENT));
    assert_eq!((outcome.code, outcome.err.lines().count()), (0, 1));
    let begin = "portcullis: dnsmasq: no broker at /s: No such file or directory";
    assert!(outcome.err.starts_with(begin), "{}", outcome.err);
    assert!(
        outcome.err.contains("; written to /d/processes; "),
        "{}",
        outcome.err
    );
    let read: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(
        (&read["answer"], &read["file"]),
        (&"spooled".into(), &"/d/processes".into())
    );
    assert!(
        read["unreachable"]
            .as_str()
            .unwrap()
            .starts_with("no broker at /s")
    );
    let outcome = Outcome::spooled(&launch(Manner::Json, false), &spool, None);
    let read: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert!(read["unreachable"].is_null());
}

#[test]
fn no_broker_and_no_spool_is_127_and_names_both() {
    let missing = SpoolError::Missing("/d".into());
    let question = launch(Manner::Json, false);
    let outcome = Outcome::unspooled(&question, &missing, Some(Errno::CONNREFUSED));
    assert_eq!(outcome.code, 127);
    for needle in [
        "no broker at /s: Connection refused",
        "no spool at /d; nobody listens",
    ] {
        assert!(outcome.err.contains(needle), "{}", outcome.err);
    }
    let read: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(read["answer"], "none");
    let outcome = Outcome::unspooled(&question, &missing, None);
    assert_eq!(outcome.code, 127);
    assert_eq!(
        outcome.err,
        "portcullis: dnsmasq: there is no spool at /d\n"
    );
}

#[test]
fn a_spool_that_is_there_and_does_not_take_it_is_125() {
    let question = launch(Manner::Plain, false);
    for error in [
        SpoolError::Line(LineError::NoNetns),
        SpoolError::NotRegular {
            path: "/d/processes".into(),
            what: "a FIFO",
        },
        SpoolError::Held {
            path: "/d/lock".into(),
            waited: Duration::from_secs(10),
        },
    ] {
        for unreachable in [None, Some(Errno::NOENT)] {
            let outcome = Outcome::unspooled(&question, &error, unreachable);
            assert_eq!((outcome.code, outcome.err.lines().count()), (125, 1));
            assert!(outcome.err.contains(&error.to_string()), "{}", outcome.err);
            assert_eq!(
                outcome.err.contains("no broker at /s"),
                unreachable.is_some()
            );
        }
    }
}
