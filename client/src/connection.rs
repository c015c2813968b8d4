//! One connection to a broker or launcher, for one question.
//!
//! A wait on it ends at a deadline, where there is one. What comes back is decoded strictly; an answer to another question
//! is passed over.

use portcullis_wire::limits::DATAGRAM;
use portcullis_wire::{DecodeError, Reply, Response, codec};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why a connection brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// There is nobody to connect to.
    #[error("{0}")]
    Unreachable(Errno),
    /// It ended before the answer: the broker was restarted, or has too many connections.
    #[error("the connection ended")]
    Lost,
    /// The deadline has passed.
    #[error("nothing came in time")]
    Late,
    /// What came is no answer.
    #[error("the answer cannot be read ({0})")]
    Unreadable(DecodeError),
    /// A system call failed that should not.
    #[error("{call}: {errno}")]
    System {
        /// Which.
        call: &'static str,
        /// How.
        errno: Errno,
    },
}

/// A connection on which something was asked.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    id: u64,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects and sends the request, which has this `id`.
    pub(crate) fn ask(
        path: &Path,
        datagram: &[u8],
        id: u64,
        deadline: Instant,
    ) -> Result<Self, ConnectionError> {
        let socket = open(path, deadline)?;
        match send(&socket, datagram, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            // The answer may be there all the same: a full broker says `Busy` and closes.
            Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(errno) => return Err(system("send", errno)),
        }
        let buffer = vec![0; DATAGRAM];
        Ok(Self { socket, id, buffer })
    }

    /// The next reply to this `id`, or to 0: what is answered to bytes that cannot be read. Without a deadline it is
    /// waited for as long as it takes.
    pub(crate) fn reply(&mut self, deadline: Option<Instant>) -> Result<Reply, ConnectionError> {
        loop {
            let response = receive(&self.socket, &mut self.buffer, deadline)?;
            if response.id == self.id || response.id == 0 {
                return Ok(response.reply);
            }
        }
    }
}

fn open(path: &Path, deadline: Instant) -> Result<OwnedFd, ConnectionError> {
    let address = SocketAddrUnix::new(path).map_err(ConnectionError::Unreachable)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| system("socket", errno))?;
    // For connect(2) too, which waits where the listener's queue is full.
    limit(&socket, Timeout::Send, Some(deadline))?;
    match connect(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(errno @ (Errno::AGAIN | Errno::INTR)) => Err(system("connect", errno)),
        Err(errno) => Err(ConnectionError::Unreachable(errno)),
    }
}

fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    deadline: Option<Instant>,
) -> Result<Response, ConnectionError> {
    let length = loop {
        limit(socket, Timeout::Recv, deadline)?;
        match recv(socket, &mut *buffer, RecvFlags::TRUNC) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(ConnectionError::Lost),
            Ok((_, length)) => break length,
            // Stopped and continued: with a timeout set, the kernel does not go on waiting by itself (signal(7)).
            Err(Errno::INTR) => {}
            Err(errno) => return Err(system("recv", errno)),
        }
    };
    // More than fits is larger than any answer.
    let datagram = buffer.get(..length);
    let too_large = DecodeError::TooLarge {
        what: "bytes in the answer",
        limit: DATAGRAM,
    };
    datagram
        .ok_or(too_large)
        .and_then(codec::decode_owned)
        .map_err(ConnectionError::Unreadable)
}

/// Limits the next waits to what is left; never to 0, which would mean for ever.
fn limit(
    socket: &OwnedFd,
    which: Timeout,
    deadline: Option<Instant>,
) -> Result<(), ConnectionError> {
    let left = |deadline: Instant| {
        let left = deadline.saturating_duration_since(Instant::now());
        left.max(Duration::from_millis(1))
    };
    set_socket_timeout(socket, which, deadline.map(left))
        .map_err(|errno| system("setsockopt", errno))
}

fn system(call: &'static str, errno: Errno) -> ConnectionError {
    match errno {
        Errno::AGAIN | Errno::TIMEDOUT => ConnectionError::Late,
        Errno::INTR => ConnectionError::Lost,
        errno => ConnectionError::System { call, errno },
    }
}
