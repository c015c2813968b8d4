//! Options, and the ways that they choose.

use super::*;
use crate::asked::{Asked, Question, asked};
use std::ffi::OsString;

fn question(words: &[&str]) -> Result<Question, AskedError> {
    match asked(words.iter().map(OsString::from))? {
        Asked::Question(question) => Ok(*question),
        Asked::Print(text) => panic!("printed {text}"),
    }
}

fn way(options: &[&str]) -> Way {
    let words = [
        &["portcullis", "run"],
        options,
        &["dnsmasq", "--spool", "x"],
    ]
    .concat();
    question(&words).unwrap().way
}

fn refused(words: &[&str]) -> String {
    question(words).unwrap_err().to_string()
}

fn own() -> Spool {
    Spool::of("dnsmasq").unwrap()
}

#[test]
fn a_launch_falls_back_to_the_commands_own_spool() {
    assert_eq!(way(&[]), Way::SocketElseSpool(own()));
    assert_eq!(
        way(&["--json", "--netns", "n"]),
        Way::SocketElseSpool(own())
    );
    let applet = question(&["/usr/sbin/dnsmasq", "--transport", "socket"]).unwrap();
    assert_eq!(applet.way, Way::SocketElseSpool(own()));
}

#[test]
fn what_is_no_launch_and_what_names_a_socket_never_falls_back() {
    for words in [
        &["portcullis", "explain", "dnsmasq"][..],
        &["portcullis", "run", "--dry-run", "dnsmasq"],
        &["portcullis", "run", "--socket", "/s", "dnsmasq"],
        &["portcullis", "--socket", "/s", "run", "dnsmasq"],
        &["portcullis", "run", "--transport", "socket", "dnsmasq"],
        &[
            "portcullis",
            "--socket=/s",
            "run",
            "--transport=socket",
            "dnsmasq",
        ],
        &["portcullis", "run", "/usr/sbin/dnsmasq"],
        &["portcullis", "ping"],
        &["portcullis", "--agent", "a", "ps"],
        &["portcullis", "--agent", "a", "stop", "x"],
        &["portcullis", "--agent", "a", "logs", "x"],
        &["portcullis", "--agent", "a", "metrics"],
    ] {
        assert_eq!(question(words).unwrap().way, Way::Socket, "{words:?}");
    }
}

#[test]
fn each_option_of_a_spool_means_the_spool_alone() {
    let dir = || Spool::new("/d".into());
    let lock = || Some("/l".into());
    for (options, spool) in [
        (&["--transport", "spool"][..], own()),
        (&["--spool", "/d"], dir()),
        (&["--lock", "/l"], own().with(lock(), false)),
        (&["--legacy"], own().with(None, true)),
        (
            &["--spool", "/d", "--lock", "/l", "--legacy"],
            dir().with(lock(), true),
        ),
        (&["--transport", "spool", "--spool", "/d"], dir()),
    ] {
        assert_eq!(way(options), Way::Spool(spool), "{options:?}");
    }
}

#[test]
fn a_socket_and_a_spool_at_once_are_refused() {
    for (words, needles) in [
        (
            &["--socket", "/s", "--spool", "/d"][..],
            ["--socket ", "--spool "],
        ),
        (&["--legacy", "--socket", "/s"], ["--socket ", "--legacy "]),
        (
            &["--transport", "socket", "--lock", "/l"],
            ["--transport socket ", "--lock "],
        ),
        (
            &["--agent", "a", "--dry-run", "--transport", "spool"],
            ["--agent ", "--transport spool "],
        ),
    ] {
        let message = refused(&[&["portcullis", "run"], words, &["dnsmasq"]].concat());
        for needle in needles {
            assert!(message.contains(needle), "{message}");
        }
    }
}

#[test]
fn a_spool_that_has_no_name_and_a_transport_that_is_none_are_refused() {
    let message = refused(&["portcullis", "run", "--transport", "spool", "/sbin/dnsmasq"]);
    assert!(message.contains("--spool DIR"), "{message}");
    let message = refused(&["portcullis", "run", "--transport", "file", "dnsmasq"]);
    assert!(message.contains("`socket` or `spool`"), "{message}");
    let named = ["portcullis", "run", "--spool", "/d", "/sbin/dnsmasq"];
    assert_eq!(
        question(&named).unwrap().way,
        Way::Spool(Spool::new("/d".into()))
    );
}
