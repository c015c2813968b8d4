//! A client that speaks the protocol, and also what is not the protocol.

use crate::{LONG, Process};
use portcullis_wire::{Body, Failure, Launch, Reason, Reply, Request, Response, codec};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, sendmsg, socket_with,
};
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// One connection to a broker or to an operator's socket.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    last_id: u64,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(LONG))?;
        set_socket_timeout(&socket, Timeout::Send, Some(LONG))?;
        Ok(Self { socket, last_id: 0 })
    }

    /// Connects by a child, which is given back and ends at once: it is the peer, and this process holds the connection.
    ///
    /// # Errors
    /// As connect(2).
    #[allow(unsafe_code)]
    pub fn connect_by_child(path: &Path) -> io::Result<(Self, Child)> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(LONG))?;
        let (address, theirs) = (SocketAddrUnix::new(path)?, socket.try_clone()?);
        let mut command = Command::new("/bin/true");
        // SAFETY: runs between fork and exec; connect is a plain system call.
        unsafe { command.pre_exec(move || Ok(connect(&theirs, &address)?)) };
        let child = command.spawn()?;
        Ok((Self { socket, last_id: 0 }, child))
    }

    /// Connects as another user.
    ///
    /// # Errors
    /// As connect(2).
    ///
    /// # Panics
    /// When this process may not become that user.
    pub fn connect_as(id: u32, path: &Path) -> io::Result<Self> {
        let connect = || {
            // Of this thread alone, which ends with it.
            let (gid, uid) = (Gid::from_raw(id), Uid::from_raw(id));
            set_thread_res_gid(gid, gid, gid).expect("another group");
            set_thread_res_uid(uid, uid, uid).expect("another user");
            Self::connect(path)
        };
        std::thread::scope(|scope| scope.spawn(connect).join().expect("a thread"))
    }

    /// Sends a request and gives its id.
    ///
    /// # Errors
    /// As send(2).
    pub fn send(&mut self, body: Body) -> io::Result<u64> {
        self.last_id += 1;
        let id = self.last_id;
        let bytes =
            codec::encode_unbounded(&Request { id, body }).expect("requests can be written");
        self.send_bytes(&bytes)?;
        Ok(id)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As send(2).
    pub fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends bytes and descriptors.
    ///
    /// # Errors
    /// As sendmsg(2).
    ///
    /// # Panics
    /// With more than 253 descriptors.
    pub fn send_descriptors(&self, bytes: &[u8], descriptors: &[BorrowedFd]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        let bytes = [IoSlice::new(bytes)];
        sendmsg(&self.socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next reply; `None` at the end of the connection.
    ///
    /// # Errors
    /// As recv(2), also after [`LONG`].
    ///
    /// # Panics
    /// When the datagram is no reply.
    pub fn receive(&self) -> io::Result<Option<Response>> {
        let mut buffer = vec![0; 128 * 1024];
        let (length, _) = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => other?,
        };
        buffer.truncate(length);
        if buffer.is_empty() {
            return Ok(None);
        }
        Ok(Some(codec::decode_owned(&buffer).expect("a reply")))
    }

    /// The next reply, which must come.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn reply(&self) -> Response {
        self.receive()
            .expect("a reply in time")
            .expect("a reply, not the connection's end")
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Panics
    /// When none comes, or another one's.
    #[track_caller]
    pub fn call(&mut self, body: Body) -> Reply {
        let id = self.send(body).expect("a connection");
        let response = self.reply();
        assert_eq!(response.id, id, "{response:?}");
        response.reply
    }

    /// [`call`](Self::call) for a launch.
    #[track_caller]
    pub fn launch(&mut self, launch: Launch) -> Reply {
        self.call(Body::Launch(launch))
    }

    /// A launch as the real client does it: asks again while the answer is `Busy`.
    ///
    /// # Panics
    /// When it stays so.
    #[track_caller]
    pub fn launch_patiently(&mut self, launch: &Launch) -> Reply {
        let end = Instant::now() + LONG * 2;
        loop {
            match self.launch(launch.clone()) {
                Reply::Busy { retry_after } if Instant::now() < end => {
                    sleep(Duration::from_millis(u64::from(retry_after.clamp(1, 1000))));
                }
                reply => return reply,
            }
        }
    }

    /// Whether a ping is answered: the connection lives.
    #[track_caller]
    pub fn is_served(&mut self) -> bool {
        matches!(self.call(Body::Ping), Reply::Pong(_))
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A request to launch that command with those arguments.
#[must_use]
pub fn launch(command: &str, args: &[&str]) -> Launch {
    Launch {
        command: command.into(),
        args: args.iter().map(ToString::to_string).collect(),
        ..Launch::default()
    }
}

/// What `Launched` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The container's full ID.
    pub container: String,
    /// Its name.
    pub name: String,
    /// Its main process on the host.
    pub pid: i32,
    /// Whether it ran already.
    pub reused: bool,
}

impl Launched {
    /// Its main process, which must be there, and runs its program by then.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn process(&self) -> Process {
        let process = Process::find(self.pid).expect("the side container's process");
        process.in_its_program()
    }
}

/// The answer, which must be `Launched`.
///
/// # Panics
/// When it is another.
#[must_use]
#[track_caller]
pub fn launched(reply: Reply) -> Launched {
    match reply {
        Reply::Launched {
            container,
            name,
            pid,
            reused,
        } => Launched {
            container,
            name,
            pid: i32::try_from(pid).expect("a pid"),
            reused,
        },
        other => panic!("not Launched: {other:?}"),
    }
}

/// The reason of a denial, which it must be.
///
/// # Panics
/// When it is another answer.
#[must_use]
#[track_caller]
pub fn denied(reply: Reply) -> Reason {
    match reply {
        Reply::Denied { reason, .. } => reason,
        other => panic!("not Denied: {other:?}"),
    }
}

/// The failure, which it must be.
///
/// # Panics
/// When it is another answer.
#[must_use]
#[track_caller]
pub fn failed(reply: Reply) -> Failure {
    match reply {
        Reply::Failed(failure) => failure,
        other => panic!("not Failed: {other:?}"),
    }
}
