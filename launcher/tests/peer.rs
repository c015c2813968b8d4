//! Who is at the other end of a connection that was accepted. Needs root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use portcullis_launcher::peer::{self, PeerError};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Closed in what another test starts at the same time.
fn open(family: AddressFamily, kind: SocketType) -> OwnedFd {
    socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap()
}

struct Listener {
    directory: TempDir,
    socket: OwnedFd,
}

impl Listener {
    fn new(kind: SocketType) -> Self {
        let directory = TempDir::new().unwrap();
        let socket = open(AddressFamily::UNIX, kind);
        let listener = Self { directory, socket };
        let address = SocketAddrUnix::new(listener.path()).unwrap();
        bind(&listener.socket, &address).unwrap();
        listen(&listener.socket, 8).unwrap();
        listener
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// A process that connects, then does what the Python statements say, with `s` as its socket, and then waits for its
    /// standard input to end.
    fn client(&self, statements: &str) -> (Child, OwnedFd) {
        let script = format!(
            "import os, socket, sys\n\
             s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
             s.connect({:?})\n\
             {statements}\n\
             s.send(b'done')\n\
             sys.stdin.read()\n",
            self.path()
        );
        let child = Command::new("python3")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .uid(4711)
            .gid(4712)
            .spawn();
        let child = child.unwrap();
        let connection = accept_with(&self.socket, SocketFlags::CLOEXEC).unwrap();
        let mut buffer = [0; 16];
        rustix::io::read(&connection, &mut buffer).unwrap();
        (child, connection)
    }
}

fn open_to_all(listener: &Listener) {
    let directory = listener.directory.path();
    let all = rustix::fs::Mode::from_raw_mode(0o777);
    rustix::fs::chmod(directory, all).unwrap();
    rustix::fs::chmod(listener.path(), all).unwrap();
}

fn listener() -> Listener {
    let listener = Listener::new(SocketType::SEQPACKET);
    open_to_all(&listener);
    listener
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_peer_is_the_process_that_connected_as_it_was_then() {
    let listener = listener();
    let (child, connection) = listener.client("");
    let peer = peer::of(connection.as_fd()).unwrap();
    assert_eq!(peer.pid, i32::try_from(child.id()).unwrap());
    assert_eq!((peer.uid, peer.gid), (4711, 4712));
    assert!(peer.is_alive());
    end(child);
    assert!(!peer.is_alive());
    let error = peer::of(connection.as_fd()).unwrap_err();
    assert!(matches!(error, PeerError::Gone(_)), "{error}");
}

#[test]
fn exec_after_connecting_changes_nobody() {
    let listener = listener();
    let exec = "s.send(b'execute'); os.execvp('cat', ['cat'])";
    let (child, connection) = listener.client(exec);
    let name = format!("/proc/{}/comm", child.id());
    while std::fs::read_to_string(&name).unwrap() != "cat\n" {
        std::thread::yield_now();
    }
    let peer = peer::of(connection.as_fd()).unwrap();
    assert_eq!((peer.uid, peer.gid), (4711, 4712));
    assert_eq!(peer.pid, i32::try_from(child.id()).unwrap());
    end(child);
}

#[test]
fn a_peer_that_died_is_refused_though_its_child_holds_the_connection() {
    let listener = listener();
    // The child goes on with the socket; the parent, who connected, ends.
    let fork = "if os.fork(): os._exit(0)";
    let (mut child, connection) = listener.client(fork);
    let input = child.stdin.take();
    child.wait().unwrap();
    let error = peer::of(connection.as_fd()).unwrap_err();
    assert!(matches!(error, PeerError::Gone(_)), "{error}");
    drop(input);
}

#[test]
fn a_zombie_is_no_peer() {
    let listener = listener();
    let (mut child, connection) = listener.client("");
    let peer = peer::of(connection.as_fd()).unwrap();
    drop(child.stdin.take());
    // Ended, not reaped.
    let id = rustix::process::WaitId::PidFd(peer.pidfd());
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(id, options).unwrap();
    assert!(!peer.is_alive());
    assert!(peer::of(connection.as_fd()).is_err());
    child.wait().unwrap();
}

#[test]
fn a_peer_in_a_pid_namespace_beneath_is_known_by_its_number_here() {
    let listener = listener();
    let script = format!(
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect({:?}); sys.stdin.read()",
        listener.path()
    );
    let mut child = Command::new("unshare")
        .args(["--pid", "--fork", "python3", "-c", &script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let connection = accept_with(&listener.socket, SocketFlags::CLOEXEC).unwrap();
    let peer = peer::of(connection.as_fd()).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", peer.pid)).unwrap();
    let numbers = status.lines().find(|l| l.starts_with("NSpid:")).unwrap();
    assert_eq!(numbers, format!("NSpid:\t{}\t1", peer.pid));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_peer_in_a_pid_namespace_that_cannot_be_seen_is_refused() {
    const SOCKET: &str = "PEER_TEST_SOCKET";
    if let Some(path) = std::env::var_os(SOCKET) {
        // The second time round, in a PID namespace of its own: the client is outside.
        let listener = open(AddressFamily::UNIX, SocketType::SEQPACKET);
        bind(
            &listener,
            &SocketAddrUnix::new(PathBuf::from(path)).unwrap(),
        )
        .unwrap();
        listen(&listener, 1).unwrap();
        let connection = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
        let error = peer::of(connection.as_fd()).unwrap_err();
        assert!(matches!(error, PeerError::Unseen), "{error}");
        return;
    }
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let inner = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_peer_in_a_pid_namespace_that_cannot_be_seen_is_refused",
        ])
        .env(SOCKET, &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let client = open(AddressFamily::UNIX, SocketType::SEQPACKET);
    let address = SocketAddrUnix::new(&path).unwrap();
    while rustix::net::connect(&client, &address).is_err() {
        std::thread::yield_now();
    }
    let inner = inner.wait_with_output().unwrap();
    assert!(inner.status.success(), "{inner:?}");
}

/// What the launcher accepted from itself is no client's.
#[test]
fn launchers_own_connection_is_refused() {
    let listener = listener();
    let client = open(AddressFamily::UNIX, SocketType::SEQPACKET);
    rustix::net::connect(&client, &SocketAddrUnix::new(listener.path()).unwrap()).unwrap();
    let accepted = accept_with(&listener.socket, SocketFlags::CLOEXEC).unwrap();
    let error = peer::of(accepted.as_fd()).unwrap_err();
    assert!(matches!(error, PeerError::Ourselves), "{error}");
}

#[test]
fn the_method_is_one_of_the_two_that_ping_tells() {
    assert!(["pidfd", "start-time"].contains(&peer::method()));
}
