//! Datagrams on sockets that are open: receiving, answering, ending.
//!
//! Nothing here waits. There is no room for control messages anywhere, so that the kernel itself drops every descriptor
//! that a client attaches: none ever gets a number in this process.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, Shutdown, recvmsg, send, shutdown,
};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing is there.
    Nothing,
    /// A datagram of so many bytes.
    Datagram {
        /// How many bytes of it are in the buffer.
        length: usize,
        /// It was longer than the buffer.
        cut: bool,
        /// It had descriptors or other control messages attached, which are gone.
        attached: bool,
    },
    /// An empty datagram, on a connection whose other end is still open.
    Empty,
    /// There will be no more.
    End,
}

/// Takes a non-blocking descriptor into the event loop.
///
/// # Errors
/// When it cannot be watched.
#[allow(unsafe_code)]
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, stays so for as long as the AsyncFd holds it, and always is the same descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Receives one datagram, if there is one.
#[must_use]
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Received {
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    loop {
        let mut none = RecvAncillaryBuffer::new(&mut []);
        let got = match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut none, flags) {
            Ok(got) => got,
            Err(Errno::AGAIN) => return Received::Nothing,
            // A client that left without reading its replies. What it asked before that is still there to be read.
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            Err(_) => return Received::End,
        };
        let attached = got.flags.contains(ReturnFlags::CTRUNC);
        if got.bytes > 0 || attached {
            let cut = got.flags.contains(ReturnFlags::TRUNC);
            return Received::Datagram {
                length: got.bytes,
                cut,
                attached,
            };
        }
        return if has_hung_up(socket) {
            Received::End
        } else {
            Received::Empty
        };
    }
}

/// Nothing was received: because nothing more will come, or because an empty datagram did? Once the end has been read, the
/// kernel says so here at once.
fn has_hung_up(socket: BorrowedFd<'_>) -> bool {
    let hangup = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut asked = [PollFd::from_borrowed_fd(socket, hangup)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut asked, Some(&at_once)).is_err()
        || asked.iter().any(|fd| fd.revents().intersects(hangup))
}

/// Sends one datagram without waiting.
///
/// # Errors
/// [`Errno::AGAIN`] when the other end has to read first; any other when it is gone.
pub fn answer(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    loop {
        match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Lets nothing more in. What has arrived can still be read, and the other end can still be answered, here or by the launcher.
pub fn stop_reading(socket: BorrowedFd<'_>) {
    // It can fail only on a socket that has no other end any more, where there is nothing to stop.
    let _ = shutdown(socket, Shutdown::Read);
}

/// Lets nothing more in and reads what has arrived without looking at it: closing a socket with unread datagrams makes the
/// other end see a reset before the last reply.
pub fn discard(socket: BorrowedFd<'_>) {
    stop_reading(socket);
    // Nothing is added any more, and the sender's buffer bounds what is there; the count guards against a kernel that
    // thinks otherwise.
    for _ in 0..4096 {
        match receive(socket, &mut [0; 1]) {
            Received::Datagram { .. } | Received::Empty => {}
            Received::Nothing | Received::End => break,
        }
    }
}

/// CLOCK_MONOTONIC in microseconds.
#[must_use]
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    micros.try_into().unwrap_or(0)
}

/// Who connected, as the kernel noted it then. A process that has no number here, because it is in a PID namespace that
/// this one does not see, has the number 0, which rustix's own function has no room for.
#[must_use]
#[allow(unsafe_code)]
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Option<libc::ucred> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, level, option) = (socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: both pointers are to live variables, and the length says how large the first one is.
    let got =
        unsafe { libc::getsockopt(fd, level, option, (&raw mut peer).cast(), &raw mut length) };
    (got == 0 && length as usize == size_of::<libc::ucred>()).then_some(peer)
}

/// How a peer can be identified on this kernel: `pidfd` where a socket tells a descriptor of its peer's process, else
/// `start-time`.
#[must_use]
#[allow(unsafe_code)]
pub fn peer_identification<S: AsFd>(socket: &S) -> &'static str {
    let mut pidfd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERPIDFD);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: both pointers are to live variables, and the length says how large the first one is.
    let got =
        unsafe { libc::getsockopt(fd, level, option, (&raw mut pidfd).cast(), &raw mut length) };
    if got == 0 && pidfd >= 0 {
        // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(pidfd) });
        "pidfd"
    } else {
        "start-time"
    }
}
