//! The other end of the protocol, as each test needs it: connection after connection it does what it was told to do.

use portcullis_wire::{Reply, Request, Response, codec};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, listen, recv, send, socket_with,
};
use rustix::process::{Signal, kill_process};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// What is done with one connection.
pub enum Act {
    /// Read the request and answer it.
    Answer(Reply),
    /// Read the request, answer it in pieces, and close.
    AnswerAll(Vec<Reply>),
    /// Read the request, answer it in pieces, and say no more until the client goes.
    AnswerAllAndHold(Vec<Reply>),
    /// Answer under another id first.
    AnswerAfterAnothers(Reply),
    /// Read the request, have the client stopped and continued while it waits, and answer.
    AnswerAfterStop(Reply),
    /// Send these bytes.
    Bytes(Vec<u8>),
    /// Read the request and close.
    Close,
    /// Answer without reading, and close: a broker that has no place.
    TurnAway(Reply),
    /// Read the request, and close, with a link in the socket's place that leads nowhere.
    #[allow(dead_code)]
    GiveWay,
    /// Read the request, and be gone, socket and all; then come back for the next act.
    Restart,
    /// Read the request and say nothing until the client goes.
    Silence,
}

/// A listener that performs its acts, one connection each.
pub struct Peer {
    path: PathBuf,
    thread: JoinHandle<Vec<Request>>,
    _dir: Option<TempDir>,
}

impl Peer {
    /// Listens, and performs.
    pub fn new(acts: Vec<Act>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peer = Self::at(dir.path().join("s"), acts);
        Self {
            _dir: Some(dir),
            ..peer
        }
    }

    /// The same at that path.
    pub fn at(path: PathBuf, acts: Vec<Act>) -> Self {
        let own = path.clone();
        let mut listener = listening(&path);
        let thread = std::thread::spawn(move || {
            let mut requests = vec![];
            for act in acts {
                let client = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
                if let Act::TurnAway(reply) = act {
                    answer(&client, 0, reply);
                    continue;
                }
                let request = request(&client);
                let id = request.id;
                requests.push(request);
                match act {
                    Act::Answer(reply) => answer(&client, id, reply),
                    Act::AnswerAll(replies) => {
                        for reply in replies {
                            answer(&client, id, reply);
                        }
                    }
                    Act::AnswerAllAndHold(replies) => {
                        for reply in replies {
                            answer(&client, id, reply);
                        }
                        let _ = recv(&client, &mut [0; 8], RecvFlags::empty());
                    }
                    Act::AnswerAfterAnothers(reply) => {
                        answer(&client, id + 1, Reply::NotFound);
                        answer(&client, id, reply);
                    }
                    Act::AnswerAfterStop(reply) => {
                        stop_and_continue(&client);
                        answer(&client, id, reply);
                    }
                    Act::Bytes(bytes) => {
                        send(&client, &bytes, SendFlags::NOSIGNAL).unwrap();
                    }
                    Act::GiveWay => {
                        std::fs::remove_file(&path).unwrap();
                        std::os::unix::fs::symlink(&path, &path).unwrap();
                    }
                    Act::Restart => {
                        drop(listener);
                        std::fs::remove_file(&path).unwrap();
                        drop(client);
                        // Long enough to be found absent, and no test depends on how often.
                        std::thread::sleep(std::time::Duration::from_millis(300));
                        listener = listening(&path);
                    }
                    Act::Silence => {
                        let _ = recv(&client, &mut [0; 8], RecvFlags::empty());
                    }
                    Act::Close | Act::TurnAway(_) => {}
                }
            }
            requests
        });
        Self {
            path: own,
            thread,
            _dir: None,
        }
    }

    /// The client, led here.
    pub fn client(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// The same, not started yet.
    pub fn command(&self, words: &[&str]) -> Command {
        command(&self.path, words)
    }

    /// The requests that came.
    pub fn requests(self) -> Vec<Request> {
        self.thread.join().unwrap()
    }
}

/// The client, led to that socket.
pub fn client(socket: &Path, words: &[&str]) -> Output {
    command(socket, words).output().unwrap()
}

/// A socket that nobody listens on. It never was anybody's: what another test starts at that moment cannot have it either.
pub fn abandoned(path: &Path) {
    mknodat(CWD, path, FileType::Socket, Mode::from_raw_mode(0o666), 0).unwrap();
}

fn command(socket: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("--socket").arg(socket).args(words);
    command
}

/// Does to the client what Ctrl-Z and `fg` do, once it waits.
fn stop_and_continue(client: &OwnedFd) {
    let pid = rustix::net::sockopt::socket_peercred(client).unwrap().pid;
    let until = |wanted: &str| {
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        while !std::fs::read_to_string(&path).unwrap().contains(wanted) {
            std::thread::yield_now();
        }
    };
    until(") S ");
    kill_process(pid, Signal::STOP).unwrap();
    until(") T ");
    kill_process(pid, Signal::CONT).unwrap();
    until(") S ");
}

fn listening(path: &PathBuf) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&listener, 8).unwrap();
    listener
}

fn request(client: &OwnedFd) -> Request {
    let mut buffer = vec![0; 65_536];
    let (length, _) = recv(client, &mut buffer[..], RecvFlags::empty()).unwrap();
    codec::decode_request(&buffer[..length]).unwrap()
}

fn answer(client: &OwnedFd, id: u64, reply: Reply) {
    let bytes = codec::encode(&Response { id, reply }).unwrap();
    match send(client, &bytes, SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::PIPE) => {}
        Err(errno) => panic!("{errno}"),
    }
}
