//! Which way a launch goes in an agent: over the broker's socket, or into the spool where no broker is. Needs root, and
//! `unshare` of util-linux: the program finds both at paths of its own, here in a mount namespace.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[allow(dead_code)]
mod peer;

use peer::{Act, Peer};
use portcullis_wire::{Body, Failure, Reason, Reply};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// An agent's `/run` and `/var/lib`.
struct Agent {
    dir: TempDir,
}

impl Agent {
    /// With neither socket nor spool.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("run/portcullis")).unwrap();
        fs::create_dir_all(dir.path().join("lib/portcullis")).unwrap();
        Self { dir }
    }

    /// With a spool for dnsmasq.
    fn with_spool() -> Self {
        let agent = Self::new();
        fs::create_dir_all(agent.spool()).unwrap();
        agent
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("lib/portcullis/spool/dnsmasq")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/portcullis/broker.sock")
    }

    fn lines(&self) -> String {
        fs::read_to_string(self.spool().join("processes")).unwrap_or_default()
    }

    /// The program there, by that path.
    fn called(&self, program: &str, words: &[&str]) -> Output {
        self.called_in("--mount", "", program, words)
    }

    /// The same in one more namespace, where this is run before.
    fn called_in(&self, namespace: &str, first: &str, program: &str, words: &[&str]) -> Output {
        let mounts = "mount --bind \"$0/run\" /run; mount --bind \"$0/lib\" /var/lib";
        let script = format!("{mounts}; {first}\nexec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", namespace]);
        command.args(["sh", "-euc", &script]).arg(self.dir.path());
        command.arg(program).args(words).output().unwrap()
    }

    fn client(&self, words: &[&str]) -> Output {
        self.called(env!("CARGO_BIN_EXE_portcullis"), words)
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn launched() -> Reply {
    Reply::Launched {
        container: "0123456789abcdef".repeat(4),
        name: "side-1".into(),
        pid: 42,
        reused: false,
    }
}

fn failed() -> Reply {
    Reply::Failed(Failure {
        reason: Reason::Engine,
        exit: None,
        message: String::new(),
        output: String::new(),
    })
}

fn of_another_version() -> Reply {
    Reply::UnsupportedVersion { spoken: vec![2] }
}

fn denied() -> Reply {
    Reply::Denied {
        reason: Reason::NoRule,
        rule: None,
        message: "no rule for \"dnsmasq\"".into(),
    }
}

/// A listener that accepts nobody, and connections until there is no place for one more.
fn full(path: &Path) -> Vec<OwnedFd> {
    let seqpacket = |flags| socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let address = SocketAddrUnix::new(path).unwrap();
    let listener = seqpacket(SocketFlags::CLOEXEC).unwrap();
    bind(&listener, &address).unwrap();
    listen(&listener, 0).unwrap();
    let mut all = vec![listener];
    loop {
        let client = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).unwrap();
        match connect(&client, &address) {
            Ok(()) => all.push(client),
            Err(Errno::AGAIN) => return all,
            Err(errno) => panic!("{errno}"),
        }
    }
}

const RUN: [&str; 5] = ["run", "--netns", "n", "dnsmasq", "a b"];

#[test]
fn a_launch_without_a_broker_is_written_to_the_commands_spool_and_says_so() {
    let agent = Agent::with_spool();
    let output = agent.client(&RUN);
    assert_eq!(
        (code(&output), output.stdout.as_slice()),
        (0, &b""[..]),
        "{}",
        err(&output)
    );
    let said = "portcullis: dnsmasq: no broker at /run/portcullis/broker.sock: No such file or directory (os error 2); \
        written to /var/lib/portcullis/spool/dnsmasq/processes; the host starts it when it reads that\n";
    assert_eq!(err(&output), said);
    assert_eq!(agent.lines(), "n 'a b'\n");
}

#[test]
fn an_applet_without_a_broker_falls_back_with_all_its_arguments() {
    let agent = Agent::with_spool();
    let applet = agent.dir.path().join("dnsmasq");
    symlink(env!("CARGO_BIN_EXE_portcullis"), &applet).unwrap();
    // A socket that nobody listens on: the broker's service is stopped.
    peer::abandoned(&agent.socket());
    let words = ["--transport", "socket", "", "--legacy"];
    let output = agent.called(applet.to_str().unwrap(), &words);
    assert_eq!(
        (code(&output), output.stdout.as_slice()),
        (0, &b""[..]),
        "{}",
        err(&output)
    );
    assert_eq!(err(&output).lines().count(), 1);
    assert!(
        err(&output).contains("Connection refused"),
        "{}",
        err(&output)
    );
    assert_eq!(agent.lines(), "'' --transport socket '' --legacy\n");
}

#[test]
fn an_applets_line_begins_with_the_name_of_the_network_namespace_that_it_is_in() {
    let agent = Agent::with_spool();
    let applet = agent.dir.path().join("dnsmasq");
    symlink(env!("CARGO_BIN_EXE_portcullis"), &applet).unwrap();
    fs::create_dir(agent.dir.path().join("run/netns")).unwrap();
    fs::write(agent.dir.path().join("run/netns/qdhcp-1"), "").unwrap();
    let name = "mount --bind /proc/self/ns/net /run/netns/qdhcp-1";
    let output = agent.called_in("--net", name, applet.to_str().unwrap(), &["--no-hosts"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert_eq!(agent.lines(), "qdhcp-1 --no-hosts\n");
}

#[test]
fn a_broker_that_is_there_gets_the_launch_and_the_spool_does_not() {
    for (reply, expected) in [
        (launched(), 0),
        (denied(), 126),
        (failed(), 125),
        (of_another_version(), 125),
    ] {
        let agent = Agent::with_spool();
        let peer = Peer::at(agent.socket(), vec![Act::Answer(reply)]);
        let output = agent.client(&RUN);
        assert_eq!(code(&output), expected, "{}", err(&output));
        let Body::Launch(launch) = &peer.requests()[0].body else {
            panic!("no launch")
        };
        assert_eq!(launch.args, ["a b"]);
        assert_eq!(fs::read_dir(agent.spool()).unwrap().count(), 0);
    }
}

#[test]
fn a_broker_that_may_have_got_the_launch_and_is_gone_is_not_made_up_for_by_the_spool() {
    for act in [Act::Close, Act::Silence, Act::GiveWay] {
        let agent = Agent::with_spool();
        let peer = Peer::at(agent.socket(), vec![act]);
        let output = agent.client(&[&["run", "--timeout", "1"], &RUN[1..]].concat());
        assert_ne!(code(&output), 0, "{}", err(&output));
        assert_eq!(peer.requests().len(), 1);
        assert_eq!(fs::read_dir(agent.spool()).unwrap().count(), 0);
    }
}

#[test]
fn a_broker_that_gives_no_answer_for_as_long_as_it_is_asked_is_not_made_up_for_by_the_spool() {
    let busy = Reply::Busy { retry_after: 5000 };
    // More often than there is time for.
    let closed = std::iter::repeat_with(|| Act::Close).take(50).collect();
    for acts in [
        vec![Act::Bytes(b"no answer".to_vec())],
        vec![Act::Answer(busy)],
        closed,
    ] {
        let agent = Agent::with_spool();
        let _peer = Peer::at(agent.socket(), acts);
        let output = agent.client(&[&["run", "--timeout", "1"], &RUN[1..]].concat());
        assert_eq!(code(&output), 125, "{}", err(&output));
        assert_eq!(fs::read_dir(agent.spool()).unwrap().count(), 0);
    }
}

/// There is a broker: it has much to do.
#[test]
fn a_broker_whose_queue_is_full_is_waited_for_and_the_spool_is_untouched() {
    let agent = Agent::with_spool();
    let _full = full(&agent.socket());
    // The outer time is for a client that waits for ever.
    let client = ["60", env!("CARGO_BIN_EXE_portcullis"), "run"];
    let words = [&client[..], &["--timeout", "1"], &RUN[1..]].concat();
    let output = agent.called("timeout", &words);
    assert_eq!(code(&output), 125, "{}", err(&output));
    assert!(err(&output).contains("no answer for "), "{}", err(&output));
    assert_eq!(fs::read_dir(agent.spool()).unwrap().count(), 0);
}

#[test]
fn whatever_stands_where_no_broker_can_be_connected_to_leads_into_the_spool() {
    let agent = Agent::with_spool();
    let of_another_type = UnixListener::bind(agent.socket()).unwrap();
    assert_eq!(code(&agent.client(&RUN)), 0);
    drop(of_another_type);
    fs::remove_file(agent.socket()).unwrap();
    fs::remove_dir(agent.dir.path().join("run/portcullis")).unwrap();
    fs::write(agent.dir.path().join("run/portcullis"), "").unwrap();
    let output = agent.client(&RUN);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(err(&output).contains("Not a directory"), "{}", err(&output));
    assert_eq!(agent.lines(), "n 'a b'\n".repeat(2));
}

#[test]
fn a_launch_that_is_to_go_over_a_socket_alone_is_not_written() {
    for words in [
        &["--socket", "/run/portcullis/broker.sock", "run", "dnsmasq"][..],
        &["run", "--socket", "/run/portcullis/broker.sock", "dnsmasq"],
        &["run", "--transport", "socket", "dnsmasq"],
        &["run", "--dry-run", "dnsmasq"],
        &["explain", "dnsmasq"],
        &["ping"],
    ] {
        let agent = Agent::with_spool();
        let output = agent.client(words);
        assert_eq!(code(&output), 127, "{}", err(&output));
        assert_eq!(fs::read_dir(agent.spool()).unwrap().count(), 0, "{words:?}");
    }
}

#[test]
fn a_launch_that_is_to_go_into_the_spool_is_not_sent() {
    let agent = Agent::with_spool();
    // It would answer, and nobody asks.
    let _peer = Peer::at(agent.socket(), vec![Act::Answer(launched())]);
    for words in [
        &["run", "--transport", "spool", "dnsmasq"][..],
        &["run", "--lock", "/run/portcullis/lock", "dnsmasq"],
        &["run", "--legacy", "--netns", "n", "dnsmasq"],
    ] {
        let output = agent.client(words);
        assert_eq!(code(&output), 0, "{}", err(&output));
        assert!(!err(&output).contains("no broker"), "{}", err(&output));
    }
    assert_eq!(agent.lines(), "''\n''\nn\n");
    assert!(agent.dir.path().join("run/portcullis/lock").exists());
}

#[test]
fn neither_broker_nor_spool_is_127_and_both_paths_are_named() {
    let agent = Agent::new();
    for words in [&["run", "dnsmasq"][..], &["run", "--image", "i", "dnsmasq"]] {
        let output = agent.client(words);
        assert_eq!(code(&output), 127, "{}", err(&output));
        assert_eq!(err(&output).lines().count(), 1);
        for needle in [
            "no broker at /run/portcullis/broker.sock: ",
            "no spool at /var/lib/portcullis/spool/dnsmasq;",
        ] {
            assert!(err(&output).contains(needle), "{}", err(&output));
        }
    }
    let output = agent.client(&["run", "--transport", "spool", "dnsmasq"]);
    assert_eq!(code(&output), 127, "{}", err(&output));
    assert!(!agent.spool().exists());
}

#[test]
fn what_no_line_can_say_is_125_and_the_spool_is_untouched() {
    for (words, needle) in [
        (
            &["run", "--image", "i", "dnsmasq"][..],
            "no place for an image",
        ),
        (
            &["run", "-e", "A=1", "dnsmasq"],
            "no place for an environment entry",
        ),
        (&["run", "dnsmasq", "a\nb"], "argument 1 has a line break"),
        (
            &["run", "--transport", "spool", "--dry-run", "dnsmasq"],
            "dry run",
        ),
        (&["run", "--legacy", "dnsmasq", "a"], "--netns NS"),
        (
            &["run", "--legacy", "--netns", "n", "dnsmasq", "a b"],
            "splits it",
        ),
    ] {
        let agent = Agent::with_spool();
        let output = agent.client(words);
        assert_eq!(code(&output), 125, "{}", err(&output));
        assert!(err(&output).contains(needle), "{}", err(&output));
        assert_eq!(fs::read_dir(agent.spool()).unwrap().count(), 0, "{words:?}");
    }
}
