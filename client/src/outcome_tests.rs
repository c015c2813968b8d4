//! Answers, and the exit codes and texts that they become.

use super::*;
use portcullis_wire::Launch;
use std::time::Duration;

fn question(manner: Manner, body: Body) -> Question {
    Question {
        socket: "/s".into(),
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
