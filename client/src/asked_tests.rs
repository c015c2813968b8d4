//! Command lines and what they ask for.

use super::*;
use std::os::unix::ffi::OsStringExt;

fn question(words: &[&str]) -> Question {
    match asked(words.iter().map(OsString::from)).unwrap() {
        Asked::Question(question) => *question,
        Asked::Print(text) => panic!("printed {text}"),
    }
}

fn launch(words: &[&str]) -> Launch {
    match question(words).body {
        Body::Launch(launch) => launch,
        other => panic!("{other:?}"),
    }
}

fn refused(words: &[&str]) -> String {
    asked(words.iter().map(OsString::from))
        .unwrap_err()
        .to_string()
}

#[test]
fn an_applet_reads_no_option_of_its_arguments() {
    let args = ["--help", "--", "", "--socket", "/tmp/x", "-h", "--version"];
    let words = [&["/usr/sbin/dnsmasq"][..], &args].concat();
    let question = question(&words);
    assert_eq!(question.whom, Whom::Broker);
    assert_eq!(question.manner, Manner::Applet);
    let launch = launch(&words);
    assert_eq!(launch.command, "dnsmasq");
    assert_eq!(launch.args, args);
    assert!(!launch.dry_run && launch.env.is_empty() && launch.image.is_none());
}

#[test]
fn everything_after_runs_command_is_the_commands() {
    let launch = launch(&[
        "/bin/portcullis",
        "run",
        "--netns=n",
        "--env",
        "A=1",
        "-e",
        "B=",
        "--image",
        "i",
        "sh",
        "--netns",
        "x",
        "--",
        "",
    ]);
    assert_eq!(launch.command, "sh");
    assert_eq!(launch.args, ["--netns", "x", "--", ""]);
    assert_eq!(launch.netns.as_deref(), Some("n"));
    assert_eq!(launch.image.as_deref(), Some("i"));
    assert_eq!(launch.env, ["A=1", "B="]);
}

#[test]
fn a_double_dash_before_the_command_ends_the_options() {
    let launch = launch(&["portcullis", "run", "--", "--odd", "--netns", "x"]);
    assert_eq!(launch.command, "--odd");
    assert_eq!(launch.args, ["--netns", "x"]);
}

#[test]
fn run_is_in_no_namespace_unless_one_is_named() {
    assert_eq!(launch(&["portcullis", "run", "sh"]).netns, None);
}

#[test]
fn explain_is_a_dry_run() {
    assert!(launch(&["portcullis", "explain", "sh"]).dry_run);
    assert!(launch(&["portcullis", "run", "--dry-run", "sh"]).dry_run);
    assert!(!launch(&["portcullis", "run", "sh", "--dry-run"]).dry_run);
}

#[test]
fn the_socket_may_be_given_before_or_after_the_subcommand() {
    for words in [
        &["portcullis", "--socket", "/s", "ping"][..],
        &["portcullis", "ping", "--socket=/s"],
        &["portcullis", "run", "--socket", "/s", "sh"],
    ] {
        assert_eq!(question(words).whom, Whom::Socket("/s".into()), "{words:?}");
    }
}

#[test]
fn a_command_line_that_asks_nothing_is_refused_and_says_what_would_do() {
    for (words, needle) in [
        (&["portcullis"][..], "run, explain and ping"),
        (&["portcullis", "dnsmasq"], "run, explain and ping"),
        (&["portcullis", "run"], "COMMAND"),
        (&["portcullis", "run", ""], "COMMAND"),
        (&["portcullis", "run", "--env", "A", "sh"], "NAME=value"),
        (&["portcullis", "run", "--env", "=1", "sh"], "NAME=value"),
        (&["portcullis", "run", "--privileged", "sh"], "--privileged"),
        (&["portcullis", "run", "--timeout", "0", "sh"], "86400"),
        (&["portcullis", "ping", "more"], "more"),
        (&["portcullis", "--socket"], "--socket"),
    ] {
        let message = refused(words);
        assert!(message.contains(needle), "{words:?}: {message}");
    }
}

#[test]
fn arguments_that_are_not_utf_8_are_refused_with_their_place() {
    let bad = OsString::from_vec(b"--x=\xff".to_vec());
    let error = asked(["dnsmasq".into(), "a".into(), bad.clone()]).unwrap_err();
    assert!(error.to_string().contains("argument 2"), "{error}");
    assert_eq!(error.speaker(), "portcullis: dnsmasq");
    for words in [
        vec!["portcullis".into(), "run".into(), "sh".into(), bad.clone()],
        vec!["portcullis".into(), "run".into(), bad.clone()],
        vec![
            "portcullis".into(),
            "run".into(),
            "--netns".into(),
            bad.clone(),
            "sh".into(),
        ],
        vec![bad],
    ] {
        assert!(asked(words).is_err());
    }
}

#[test]
fn more_than_a_request_may_have_is_refused_before_anybody_is_asked() {
    let mut words = vec![OsString::from("dnsmasq")];
    words.extend(std::iter::repeat_n("x".into(), 1024));
    assert!(asked(words.clone()).is_ok());
    words.push("x".into());
    let error = asked(words).unwrap_err().to_string();
    assert!(
        error.contains("1025 arguments") && error.contains("1024"),
        "{error}"
    );
    let mut words = vec!["portcullis".into(), "run".into()];
    words.extend((0..129).map(|n| format!("--env=A{n}=1").into()));
    words.push(OsString::from("sh"));
    assert!(asked(words).is_err());
}

#[test]
fn help_and_version_ask_nobody() {
    for words in [
        &["portcullis", "--help"][..],
        &["portcullis", "help"],
        &["portcullis", "-V"],
        &["portcullis", "run", "--help"],
        &["portcullis", "ping", "-h"],
        &["portcullis", "ps", "--help"],
        &["portcullis", "logs", "--help"],
        &["portcullis", "stop", "-h"],
        &["portcullis", "metrics", "-h"],
    ] {
        let asked = asked(words.iter().map(OsString::from)).unwrap();
        assert!(matches!(asked, Asked::Print(_)), "{words:?}");
    }
}

#[test]
fn help_fits_a_wide_terminal() {
    assert!(HELP.lines().all(|line| line.chars().count() <= 120));
}
