//! Letting go of a connection. Before Linux 6.16 a client may have attached descriptors to what it sent, and the process that drops
//! them last waits for as long as the client likes: a TCP socket that lingers waits for its peer. So they are never dropped
//! on the loop, but by a thread that ends with them: the kernel lets nothing linger for a thread that is ending.

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use rustix::thread::UnshareFlags;
use std::fs;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

/// How many requests of one connection are thrown away; a client that has sent more sees its end without an answer.
const REQUESTS: usize = 64;

/// Closes a connection, without waiting. `guarded`: nothing can be attached to what is still in it.
pub(super) fn release(socket: OwnedFd, guarded: bool) {
    if !guarded {
        // Nothing more gets in, so what is seen now stays true.
        let _ = shutdown(&socket, Shutdown::Read);
        if holds_descriptors(socket.as_fd()) {
            return dispose(socket);
        }
    }
    // Closing it with something unread in it would look like an error, and hide the last answer.
    for _ in 0..REQUESTS {
        let (nothing, flags) = (&mut [0_u8; 0][..], RecvFlags::DONTWAIT | RecvFlags::TRUNC);
        match recv(&socket, nothing, flags) {
            Ok((_, length)) if length > 0 => {}
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Whether there are descriptors in what waits to be received: the kernel counts them (Linux 5.4). What it does not say is
/// taken for a yes.
pub(super) fn holds_descriptors(socket: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fdinfo/{}", socket.as_raw_fd());
    let text = fs::read_to_string(path).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("scm_fds:"));
    count.is_none_or(|count| count.trim() != "0")
}

/// Closes a socket where nobody waits for it. Two threads: one whose table of descriptors is its own and ends with it, and
/// one that meanwhile closes the socket in everybody's.
fn dispose(socket: OwnedFd) {
    // If there is no thread to be had, the descriptor stays open: that is better than a launcher that waits.
    let socket = ManuallyDrop::new(socket);
    let closer = move || {
        let socket = ManuallyDrop::into_inner(socket);
        let number = socket.as_raw_fd();
        let (taken, is_taken) = mpsc::channel();
        let (closed, is_closed) = mpsc::channel::<()>();
        let last = move || {
            let own = own_table(number);
            // With a table that is not its own, the other thread is the one that waits. The loop does not.
            let _ = taken.send(own);
            let _ = is_closed.recv();
        };
        if thread::Builder::new()
            .name("last owner".to_owned())
            .spawn(last)
            .is_ok()
        {
            let _ = is_taken.recv();
        }
        drop(socket);
        drop(closed);
    };
    let started = thread::Builder::new()
        .name("closer".to_owned())
        .spawn(closer);
    if let Err(error) = started {
        tracing::error!(%error, "no thread to close a connection with descriptors in it; it stays open");
    }
}

/// Gives the calling thread a table of descriptors of its own, with this one in it alone.
#[allow(unsafe_code)]
fn own_table(kept: i32) -> rustix::io::Result<()> {
    // SAFETY: this thread uses no descriptor after that: it waits, and ends.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }?;
    close_range(0, kept.unsigned_abs().saturating_sub(1));
    close_range(kept.unsigned_abs() + 1, u32::MAX);
    Ok(())
}

#[allow(unsafe_code)]
fn close_range(first: u32, last: u32) {
    // SAFETY: in the table of the calling thread alone, which uses none of them.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::IoSlice;
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType, send, sendmsg, socketpair,
    };
    use std::io::Write;
    use std::mem::MaybeUninit;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    /// Closing it would take this long, or until its other end is closed.
    const LINGER: Duration = Duration::from_secs(60);

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    /// Two TCP sockets: one that lingers, and its other end.
    fn lingering() -> (OwnedFd, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (end, _) = listener.accept().unwrap();
        rustix::net::sockopt::set_socket_linger(&socket, Some(LINGER)).unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.write(&[0; 65_536]).is_ok() {}
        (socket.into(), end.into())
    }

    fn attach(socket: &OwnedFd, descriptor: OwnedFd) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let bytes = [IoSlice::new(b"x")];
        sendmsg(socket, &bytes, &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn connection_with_a_lingering_socket_in_it_is_released_at_once() {
        let (client, connection) = pair();
        let (socket, end) = lingering();
        send(&client, b"an honest one first", SendFlags::empty()).unwrap();
        attach(&client, socket);
        let start = Instant::now();
        release(connection, false);
        assert!(start.elapsed() < LINGER / 2);
        // It is closed, and no other thread still waits for it: its other end sees that.
        let mut buffer = [0; 65_536];
        while rustix::io::read(&end, &mut buffer).is_ok_and(|length| length > 0) {}
        assert!(start.elapsed() < LINGER / 2);
    }

    #[test]
    fn what_has_no_descriptors_is_thrown_away() {
        for guarded in [true, false] {
            let (client, connection) = pair();
            send(&client, b"a request", SendFlags::empty()).unwrap();
            assert!(!holds_descriptors(connection.as_fd()));
            send(&connection, b"a sentence", SendFlags::empty()).unwrap();
            release(connection, guarded);
            let mut answer = [0; 64];
            let (_, length) = recv(&client, &mut answer, RecvFlags::empty()).unwrap();
            assert_eq!(&answer[..length], b"a sentence");
        }
    }
}
