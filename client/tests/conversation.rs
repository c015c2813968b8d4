//! The program against a peer that is busy, restarts, breaks off or talks nonsense: which exit code, and which words.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod peer;

use peer::{Act, Peer, client};
use portcullis_wire::{Body, Container, Failure, Pong, Reason, Reply, State, Target};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

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
    // Asked again after two to three seconds: whoever waits for that long once more comes too late.
    let peer = Peer::new(vec![Act::Answer(busy(2000)), Act::Answer(busy(2000))]);
    let output = peer.client(&["run", "--timeout", "4", "sh"]);
    assert_eq!(code(&output), 125);
    let needle = "s, 2 times in a row";
    assert!(err(&output).contains(needle), "{}", err(&output));
    assert_eq!(peer.requests().len(), 2);
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
    let output = peer.client(&["run", "--timeout", "60", "sh"]);
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
    peer::abandoned(&stale);
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
    let full = File::options().write(true).open("/dev/full").unwrap();
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

fn chunk(bytes: &[u8]) -> Reply {
    let bytes = bytes.to_vec();
    Reply::Chunk { bytes }
}

fn done(exit: Option<u8>) -> Reply {
    Reply::Done { exit }
}

fn page(names: &[&str], more: bool) -> Reply {
    let item = |name: &&str| Container {
        name: (*name).into(),
        container: String::new(),
        rule: "r".into(),
        netns: None,
        state: State::Launching,
        pid: 0,
        age: None,
        last_exit: None,
    };
    let items = names.iter().map(item).collect();
    Reply::Containers { items, more }
}

#[test]
fn a_list_is_fetched_page_after_page_until_there_are_no_more() {
    let peer = Peer::new(vec![
        Act::Answer(page(&["a", "b"], true)),
        Act::Answer(busy(1)),
        Act::Answer(page(&["c"], true)),
        Act::Answer(page(&["d"], false)),
    ]);
    let output = peer.client(&["ps", "--all", "--json"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["name"].clone())
        .collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let afters: Vec<_> = peer.requests().into_iter().map(|r| r.body).collect();
    let list = |after: Option<&str>| Body::List {
        all: true,
        after: after.map(str::to_owned),
    };
    let expected = [None, Some("b"), Some("b"), Some("c")].map(list);
    assert_eq!(afters, expected);
}

#[test]
fn a_list_whose_pages_do_not_go_on_is_125_and_nothing_is_printed() {
    for again in [&["b"][..], &["a"], &[]] {
        let peer = Peer::new(vec![
            Act::Answer(page(&["a", "b"], true)),
            Act::Answer(page(again, true)),
        ]);
        let output = peer.client(&["ps"]);
        assert_eq!((code(&output), output.stdout.as_slice()), (125, &b""[..]));
        peer.requests();
    }
}

#[test]
fn a_log_is_written_as_it_is_byte_for_byte() {
    let bytes: Vec<u8> = (0..=255).collect();
    let peer = Peer::new(vec![
        Act::Answer(busy(1)),
        Act::AnswerAll(vec![
            chunk(&bytes),
            chunk(b""),
            chunk(&bytes),
            done(Some(3)),
        ]),
    ]);
    let output = peer.client(&["logs", "--tail", "9", "x"]);
    assert_eq!((code(&output), output.stderr.as_slice()), (0, &b""[..]));
    assert_eq!(output.stdout, [&bytes[..], &bytes[..]].concat());
    let expected = Body::Logs {
        target: Target::Name("x".into()),
        tail: Some(9),
        follow: false,
    };
    assert_eq!(peer.requests()[1].body, expected);
}

#[test]
fn a_log_on_a_terminal_moves_no_cursor_even_where_it_comes_cut() {
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, vec![]).unwrap();
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(OsStr::from_bytes(name.as_bytes()))
        .unwrap();
    let peer = Peer::new(vec![Act::AnswerAll(vec![
        chunk(b"a\x1b[2J\xc3"),
        chunk(b"\xa4\x9b"),
        chunk(b"\tb\n\xe2"),
        done(None),
    ])]);
    let mut command = peer.command(&["logs", "x"]);
    let status = command.stdout(terminal).status();
    assert!(status.unwrap().success());
    // The last that holds the terminal's other end; when all is read, reading fails.
    drop(command);
    let (mut controller, mut seen) = (File::from(controller), vec![]);
    assert!(controller.read_to_end(&mut seen).is_err());
    // The terminal itself makes of a line feed a carriage return and a line feed.
    assert_eq!(
        String::from_utf8(seen).unwrap(),
        "a\\u{1b}[2Jä\\x9b\tb\r\n\\xe2"
    );
}

#[test]
fn an_answer_that_breaks_off_is_125_and_is_not_asked_for_again() {
    for words in [&["logs", "x"][..], &["metrics"]] {
        let peer = Peer::new(vec![Act::AnswerAll(vec![chunk(b"begun\n")])]);
        let output = peer.client(words);
        assert_eq!((code(&output), &output.stdout[..]), (125, &b"begun\n"[..]));
        assert!(err(&output).contains("broke off"), "{}", err(&output));
        assert_eq!(peer.requests().len(), 1);
    }
}

#[test]
fn an_answer_in_pieces_that_has_not_begun_is_asked_for_again() {
    let peer = Peer::new(vec![
        Act::Close,
        Act::Restart,
        Act::AnswerAll(vec![chunk(b"m 1\n"), chunk(b"# EOF\n"), done(None)]),
    ]);
    let output = peer.client(&["metrics"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert_eq!(output.stdout, b"m 1\n# EOF\n");
}

#[test]
fn a_silence_between_two_pieces_ends_at_the_deadline() {
    let peer = Peer::new(vec![Act::AnswerAllAndHold(vec![chunk(b"begun\n")])]);
    let output = peer.client(&["logs", "--timeout", "5", "x"]);
    assert_eq!((code(&output), &output.stdout[..]), (125, &b"begun\n"[..]));
    assert!(err(&output).contains("in time"), "{}", err(&output));
}

#[test]
fn a_log_that_is_followed_has_no_deadline_and_ends_on_an_interrupt() {
    let peer = Peer::new(vec![Act::AnswerAllAndHold(vec![chunk(b"begun\n")])]);
    let client = peer.command(&["logs", "--follow", "--timeout", "1", "x"]);
    // Whoever runs tests in the background has it ignored, and so has all that they start.
    let mut command = Command::new("env");
    command
        .arg("--default-signal=INT")
        .arg(client.get_program());
    command.args(client.get_args()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut read = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut read).unwrap();
    assert_eq!(&read, b"begun\n");
    // Past what would be the deadline, it is still there.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    peer.requests();
}

#[test]
fn a_log_whose_reader_has_gone_ends_quietly() {
    let peer = Peer::new(vec![Act::AnswerAll(vec![chunk(b"x\n"), done(None)])]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = peer
        .command(&["logs", "x"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!((code(&output), output.stderr.as_slice()), (125, &b""[..]));
}

#[test]
fn a_stop_is_asked_again_while_the_launcher_is_busy_and_tells_the_exit_code() {
    let id = "0123456789abcdef".repeat(4);
    let peer = Peer::new(vec![Act::Answer(busy(1)), Act::Answer(done(Some(143)))]);
    let output = peer.client(&["stop", "--timeout", "5", &id]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let text = format!("{id} ended with exit code 143\n");
    assert_eq!(output.stdout, text.as_bytes());
    let expected = Body::Stop {
        target: Target::Container(id),
        timeout: Some(5),
    };
    assert_eq!(peer.requests()[1].body, expected);
}

#[test]
fn a_name_that_nothing_has_is_125_and_no_output() {
    for words in [&["stop", "x"][..], &["logs", "x"], &["logs", "-f", "x"]] {
        let peer = Peer::new(vec![Act::Answer(Reply::NotFound)]);
        let output = peer.client(words);
        assert_eq!((code(&output), output.stdout.as_slice()), (125, &b""[..]));
        assert!(err(&output).contains("no side container x"));
        peer.requests();
    }
}

#[test]
fn an_agent_whose_launcher_is_not_there_is_127_and_its_unit_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command
        .args(["--agent", "no-such-agent-here", "ps"])
        .output()
        .unwrap();
    assert_eq!((code(&output), output.stdout.as_slice()), (127, &b""[..]));
    let needle = "no launcher of the agent no-such-agent-here at /run/portcullis-launcher/";
    assert!(err(&output).contains(needle), "{}", err(&output));
}
