//! The program against a peer that is busy, restarts, breaks off or talks nonsense: which exit code, and which words.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod peer;

use peer::{Act, Peer, client};
use portcullis_wire::{Body, Failure, Pong, Reason, Reply};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

fn launched() -> Reply {
    Reply::Launched {
        container: "0123456789abcdef".repeat(4),
        name: "side-1".into(),
        pid: 42,
        reused: false,
    }
}

fn busy(retry_after: u32) -> Reply {
    Reply::Busy { retry_after }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_launch_is_one_datagram_with_every_argument_as_it_was_given() {
    let peer = Peer::new(vec![Act::Answer(launched())]);
    let words = [
        "run", "--netns", "n", "--image", "i", "--env", "A=b c", "sh", "", "--", "ä ", "-x",
    ];
    let output = peer.client(&words);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let Body::Launch(launch) = &peer.requests()[0].body else {
        panic!("no launch")
    };
    assert_eq!(launch.command, "sh");
    assert_eq!(launch.args, ["", "--", "ä ", "-x"]);
    assert_eq!(launch.env, ["A=b c"]);
    assert_eq!(
        (launch.netns.as_deref(), launch.image.as_deref()),
        (Some("n"), Some("i"))
    );
}

#[test]
fn a_ping_is_answered() {
    let pong = Pong {
        agent: "dhcp".into(),
        generation: "0123456789abcdef".into(),
        version: "0.1.0".into(),
        layers: vec!["seccomp".into()],
        landlock_abi: 4,
        peer_identification: "pidfd".into(),
    };
    let peer = Peer::new(vec![Act::Answer(Reply::Pong(pong))]);
    let output = peer.client(&["ping", "--json"]);
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &read["agent"]), (0, &"dhcp".into()));
}

#[test]
fn a_busy_broker_is_asked_again() {
    let acts = vec![
        Act::Answer(busy(1)),
        Act::TurnAway(busy(1)),
        Act::Answer(busy(30)),
        Act::Answer(launched()),
    ];
    let peer = Peer::new(acts);
    let begin = std::time::Instant::now();
    let output = peer.client(&["run", "sh"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert_eq!(output.stderr, b"");
    // The pauses grow, also where less is asked for: 20, 40, 80 ms at least.
    assert!(begin.elapsed().as_millis() >= 140);
}

#[test]
fn a_broker_that_stays_busy_is_left_at_the_deadline() {
    let acts = (0..100).map(|_| Act::Answer(busy(400))).collect();
    let peer = Peer::new(acts);
    let output = peer.client(&["run", "--timeout", "1", "sh"]);
    assert_eq!(code(&output), 125);
    assert!(err(&output).contains("busy"), "{}", err(&output));
}

#[test]
fn a_broker_that_restarts_is_asked_again() {
    let acts = vec![
        Act::Close,
        Act::Restart,
        Act::AnswerAfterAnothers(launched()),
    ];
    let peer = Peer::new(acts);
    let output = peer.client(&["run", "sh"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let requests = peer.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests
            .iter()
            .all(|request| request.body == requests[0].body)
    );
}

#[test]
fn a_client_that_was_stopped_and_continued_asks_once() {
    let peer = Peer::new(vec![Act::AnswerAfterStop(launched())]);
    let output = peer.client(&["run", "--timeout", "5", "sh"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert_eq!(peer.requests().len(), 1);
}

#[test]
fn no_answer_at_the_deadline_is_125() {
    let peer = Peer::new(vec![Act::Silence]);
    let begin = std::time::Instant::now();
    let output = peer.client(&["run", "--timeout", "1", "sh"]);
    assert_eq!(code(&output), 125);
    assert!(err(&output).contains("no answer"), "{}", err(&output));
    assert!(begin.elapsed().as_secs() < 5);
}

#[test]
fn no_broker_is_127_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let stream = dir.path().join("stream");
    let _listener = std::os::unix::net::UnixListener::bind(&stream).unwrap();
    for path in [
        &dir.path().join("absent"),
        &stale,
        &stream,
        &dir.path().join("x".repeat(200)),
    ] {
        let output = client(path, &["run", "sh"]);
        assert_eq!(code(&output), 127, "{}", err(&output));
        assert_eq!(err(&output).lines().count(), 1);
        assert!(err(&output).contains("no broker at"), "{}", err(&output));
    }
}

#[test]
fn nonsense_is_125_and_never_success() {
    for bytes in [
        &b"x"[..],
        b"PC\x02",
        b"PC\x01\x01\x07",
        &[0; 65_536],
        &[0; 70_000],
    ] {
        let peer = Peer::new(vec![Act::Bytes(bytes.to_vec())]);
        let output = peer.client(&["run", "sh"]);
        assert_eq!(code(&output), 125, "{bytes:?}");
    }
}

#[test]
fn a_request_that_does_not_fit_is_refused_here() {
    let large = "x".repeat(40_000);
    let output = client(Path::new("/nowhere"), &["run", "sh", &large, &large]);
    assert_eq!(code(&output), 125);
    assert!(err(&output).contains("64 KiB"), "{}", err(&output));
}

#[test]
fn the_programs_own_code_is_the_exit_code() {
    let failure = Failure {
        reason: Reason::Exited,
        exit: Some(2),
        message: "the program ended with exit code 2 before it was ready".into(),
        output: "dnsmasq: bad option\n".into(),
    };
    let peer = Peer::new(vec![Act::Answer(Reply::Failed(failure))]);
    let output = peer.client(&["run", "sh"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).ends_with("\n  dnsmasq: bad option\n"));
}

#[test]
fn a_denial_is_126() {
    let reply = Reply::Denied {
        reason: Reason::NoRule,
        rule: None,
        message: "no rule for \"sh\"".into(),
    };
    let peer = Peer::new(vec![Act::Answer(reply)]);
    assert_eq!(code(&peer.client(&["run", "sh"])), 126);
}

#[test]
fn standard_output_that_is_full_is_not_success() {
    let peer = Peer::new(vec![]);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let status = command.arg("--help").stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(125));
    drop(peer.requests());
}

#[test]
fn by_another_name_help_is_the_programs_and_not_ours() {
    // No agent's directory is mounted where the tests run: what counts is that nothing is printed and nothing read.
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command
        .arg0("/usr/sbin/dnsmasq")
        .arg("--help")
        .output()
        .unwrap();
    assert_eq!(code(&output), 127);
    assert_eq!(output.stdout, b"");
    assert!(
        err(&output).starts_with("portcullis: dnsmasq: no broker at /run/portcullis/broker.sock")
    );
}
