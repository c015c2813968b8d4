//! The operator's command lines and what they ask for.

use super::*;
use crate::asked::asked;

fn question(words: &[&str]) -> Question {
    let words = std::iter::once("portcullis").chain(words.iter().copied());
    match asked(words.map(OsString::from)).unwrap() {
        Asked::Question(question) => *question,
        Asked::Print(text) => panic!("printed {text}"),
    }
}

fn refused(words: &[&str]) -> String {
    let words = std::iter::once("portcullis").chain(words.iter().copied());
    asked(words.map(OsString::from)).unwrap_err().to_string()
}

#[test]
fn an_agents_name_stands_for_its_operators_socket_before_and_after_the_subcommand() {
    for words in [
        &["--agent", "dhcp", "ping"][..],
        &["ping", "--agent=dhcp"],
        &["explain", "--agent", "dhcp", "sh"],
        &["ps", "--agent", "dhcp"],
        &["logs", "--agent", "dhcp", "x"],
        &["stop", "x", "--agent", "dhcp"],
        &["--agent", "dhcp", "metrics"],
    ] {
        assert_eq!(
            question(words).whom.path().to_str(),
            Some("/run/portcullis-launcher/dhcp/control.sock"),
            "{words:?}"
        );
    }
}

#[test]
fn an_agents_name_and_a_socket_are_one_too_many_in_either_order() {
    for words in [
        &["--agent", "dhcp", "--socket", "/s", "ping"][..],
        &["--socket", "/s", "ps", "--agent", "dhcp"],
    ] {
        assert!(refused(words).contains("--agent and --socket"), "{words:?}");
    }
}

#[test]
fn a_name_that_would_lead_elsewhere_is_no_agent() {
    for name in ["..", "a/b", "", "A", "../../tmp/x"] {
        assert!(refused(&["--agent", name, "ps"]).contains("not an agent name"));
    }
}

#[test]
fn nothing_is_launched_on_the_host() {
    assert!(refused(&["--agent", "dhcp", "run", "sh"]).contains("explain"));
    assert!(refused(&["run", "--agent", "dhcp", "sh"]).contains("explain"));
    question(&["--agent", "dhcp", "run", "--dry-run", "sh"]);
}

#[test]
fn every_option_reaches_the_request() {
    let name = || Target::Name("x".into());
    let logs = |tail, follow| Body::Logs {
        target: name(),
        tail,
        follow,
    };
    let stop = |timeout| Body::Stop {
        target: name(),
        timeout,
    };
    let list = |all| Body::List { all, after: None };
    for (words, body) in [
        (&["ps"][..], list(false)),
        (&["ps", "--all"], list(true)),
        (&["ps", "-a", "--json"], list(true)),
        (&["logs", "x"], logs(None, false)),
        (&["logs", "x", "--tail=0", "-f"], logs(Some(0), true)),
        (
            &["logs", "--tail", "7", "--follow", "--", "x"],
            logs(Some(7), true),
        ),
        (&["stop", "x"], stop(None)),
        (&["stop", "--timeout", "0", "x"], stop(Some(0))),
        (&["metrics"], Body::Metrics),
    ] {
        assert_eq!(question(words).body, body, "{words:?}");
    }
}

#[test]
fn a_stop_is_waited_for_longer_than_the_program_may_take() {
    let patience = |words| question(words).patience.as_secs();
    assert_eq!(patience(&["stop", "--timeout", "30", "x"]), 90);
    assert_eq!(patience(&["stop", "x"]), 600);
}

#[test]
fn a_full_id_is_one_and_anything_else_is_a_name() {
    let id = "0123456789abcdef".repeat(4);
    let short = "0123456789ab";
    let upper = id.to_uppercase();
    for (text, target) in [
        (id.as_str(), Target::Container(id.clone())),
        (short, Target::Name(short.into())),
        (&upper, Target::Name(upper.clone())),
    ] {
        let Body::Stop { target: found, .. } = question(&["stop", text]).body else {
            panic!("no stop")
        };
        assert_eq!(found, target);
    }
}

#[test]
fn a_command_line_that_asks_nothing_is_refused_and_says_what_would_do() {
    for (words, needle) in [
        (&["logs"][..], "portcullis --agent AGENT logs NAME"),
        (&["stop", ""], "NAME is missing"),
        (&["stop", "x", "y"], "y"),
        (&["logs", "--tail", "-1", "x"], "whole number"),
        (&["stop", "--timeout", "86401", "x"], "0 to 86400"),
        (&["ps", "--timeout", "0"], "1 to 86400"),
        (&["stop", "--json", "x"], "--json"),
        (&["metrics", "--follow"], "--follow"),
        (&["--agent", "dhcp"], "ps, logs, stop and metrics"),
    ] {
        let message = refused(words);
        assert!(message.contains(needle), "{words:?}: {message}");
    }
}
