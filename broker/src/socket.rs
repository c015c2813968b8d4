//! Datagrams on sockets that are open: receiving, answering, ending.
//!
//! Nothing here waits for a client. Datagrams are received by a call that has no place for descriptors: none that a client
//! attaches ever gets a number in this process, and from Linux 6.16 on the kernel does not let it attach any.

use crate::alarm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
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
    /// A datagram, of which so many bytes are in the buffer.
    Datagram(usize),
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

/// Receives one datagram, if there is one. A longer one than the buffer is cut.
///
/// `guarded`: the kernel lets nothing be attached (see [`Accepted`](portcullis_wire::Accepted)). Where it does not, the
/// second value says whether receiving blocked, as no honest client's datagram does.
#[must_use]
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], guarded: bool) -> (Received, bool) {
    if guarded {
        (receive_now(socket, buffer), false)
    } else {
        alarm::bounded(|| receive_now(socket, buffer))
    }
}

fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Received {
    look(socket, buffer, RecvFlags::empty())
}

/// The same, and the datagram stays where it is: nothing is dropped with it, so nothing can block.
#[must_use]
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Received {
    look(socket, buffer, RecvFlags::PEEK)
}

fn look(socket: BorrowedFd<'_>, buffer: &mut [u8], how: RecvFlags) -> Received {
    loop {
        return match recv(socket, &mut *buffer, RecvFlags::DONTWAIT | how) {
            Ok((0, _)) if has_hung_up(socket) => Received::End,
            Ok((0, _)) => Received::Empty,
            Ok((length, _)) => Received::Datagram(length),
            Err(Errno::AGAIN) => Received::Nothing,
            // A client that left without reading its replies. What it asked before that is still there to be read.
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            Err(_) => Received::End,
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
pub fn discard(socket: BorrowedFd<'_>, guarded: bool) {
    stop_reading(socket);
    // Nothing is added any more, and the sender's buffer bounds what is there; the count guards against a kernel that
    // thinks otherwise.
    for _ in 0..4096 {
        match receive(socket, &mut [0; 1], guarded) {
            (Received::Datagram(_) | Received::Empty, false) => {}
            _ => break,
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
