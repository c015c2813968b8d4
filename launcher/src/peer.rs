//! Who is at the other end of a connection that the launcher has accepted, as the kernel says it: never as the broker or the
//! client does.

use crate::pidfd::start_time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// `SO_PEERPIDFD` of Linux 6.5, which the `libc` crate lacks; the same number everywhere but on parisc and sparc.
const SO_PEERPIDFD: libc::c_int = 77;

/// Why a peer cannot be known. The client is told `peer`.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel refused an answer.
    #[error("the peer cannot be known: {what}: {errno}")]
    Ask {
        /// What was asked.
        what: &'static str,
        /// The refusal.
        errno: Errno,
    },
    /// The peer has no number here.
    #[error(
        "the peer is in a PID namespace that cannot be seen from here; connect from the host's or one beneath it"
    )]
    Unseen,
    /// The socket was made by this very process.
    #[error("the peer is the launcher itself")]
    Ourselves,
    /// It has ended.
    #[error("the peer, process {0}, has ended")]
    Gone(i32),
    /// The kernel names two processes for one connection.
    #[error("the peer is process {pid} by SO_PEERCRED, and process {other} by its pidfd")]
    Contradiction {
        /// The one.
        pid: i32,
        /// The other.
        other: u32,
    },
}

/// The process that opened the connection.
#[derive(Debug)]
pub struct PeerIdentity {
    /// Its number, in the launcher's PID namespace.
    pub pid: i32,
    /// Its effective user when it connected, in the launcher's user namespace.
    pub uid: u32,
    /// Its effective group when it connected.
    pub gid: u32,
    pidfd: OwnedFd,
}

impl PeerIdentity {
    /// Whether it still lives (a zombie does not). If it does, `pid` has meant no other process since it connected.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        alive(self.pidfd.as_fd())
    }

    /// Its pidfd.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// How peers are identified on this kernel: `pidfd`, or `start-time` before Linux 6.5. `ping` tells it.
#[must_use]
pub fn method() -> &'static str {
    if has_peer_pidfd() {
        "pidfd"
    } else {
        "start-time"
    }
}

/// Whom the kernel noted when a client connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its number, in the launcher's PID namespace; 0 when it has none there.
    pub pid: i32,
    /// Its effective user, in the launcher's user namespace.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// What the kernel noted of a connection's peer.
///
/// # Errors
/// [`PeerError::Ask`].
pub fn credentials(sock: BorrowedFd<'_>) -> Result<Credentials, PeerError> {
    let [pid, uid, gid] = option_words(sock, libc::SO_PEERCRED).map_err(ask("SO_PEERCRED"))?;
    let pid = pid.cast_signed();
    Ok(Credentials { pid, uid, gid })
}

/// Identifies the peer of a connection that a listening socket accepted. It is the process that connected, as it was
/// then, whoever holds the other end by now.
///
/// # Errors
/// [`PeerError`]: whatever cannot be said for certain is not said.
pub fn of(sock: BorrowedFd<'_>) -> Result<PeerIdentity, PeerError> {
    let Credentials { pid, uid, gid } = credentials(sock)?;
    let known = Pid::from_raw(pid)
        .filter(|_| pid > 0)
        .ok_or(PeerError::Unseen)?;
    if known == rustix::process::getpid() {
        return Err(PeerError::Ourselves);
    }
    let pidfd = if has_peer_pidfd() {
        peer_pidfd(sock)
    } else {
        pidfd_by_start_time(known)
    };
    let peer = PeerIdentity {
        pid,
        uid,
        gid,
        pidfd: pidfd.map_err(|error| match error {
            // A peer that was reaped has no process to give a pidfd of.
            PeerError::Ask {
                errno: Errno::SRCH | Errno::NODATA,
                ..
            } => PeerError::Gone(pid),
            other => other,
        })?,
    };
    // What has ended has no information any more, and no number that means it.
    match pidfd_info(peer.pidfd.as_fd()) {
        Ok(Some(other)) if i32::try_from(other) != Ok(pid) => {
            return Err(PeerError::Contradiction { pid, other });
        }
        Err(Errno::SRCH) => return Err(PeerError::Gone(pid)),
        Err(errno) => return Err(ask("PIDFD_GET_INFO")(errno)),
        Ok(_) => {}
    }
    if peer.is_alive() {
        Ok(peer)
    } else {
        Err(PeerError::Gone(pid))
    }
}

fn ask(what: &'static str) -> impl Fn(Errno) -> PeerError {
    move |errno| PeerError::Ask { what, errno }
}

/// Asked once, of a pair of our own: a failure on a client's socket must not make the weaker way be taken.
pub(crate) fn has_peer_pidfd() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let pair = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        );
        // Only the kernel's "no such option" is a no.
        !pair.is_ok_and(|(one, _other)| {
            matches!(peer_pidfd(one.as_fd()), Err(PeerError::Ask { errno, .. }) if errno == Errno::NOPROTOOPT)
        })
    })
}

/// Before Linux 6.5: the number might have been given to another process since the peer connected, which shows only if it
/// happens between two looks at the start time. `ping` says that this is the way in force.
fn pidfd_by_start_time(pid: Pid) -> Result<OwnedFd, PeerError> {
    let number = pid.as_raw_nonzero().get();
    let before = start_time(number).ok_or(PeerError::Gone(number))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(ask("pidfd_open"))?;
    if start_time(number) == Some(before) {
        Ok(pidfd)
    } else {
        Err(PeerError::Gone(number))
    }
}

/// A pidfd becomes readable as its process ends. What cannot be asked is not taken for alive.
fn alive(pidfd: BorrowedFd<'_>) -> bool {
    loop {
        match poll(
            &mut [PollFd::new(&pidfd, PollFlags::IN)],
            Some(&Timespec::default()),
        ) {
            Ok(ready) => return ready == 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[allow(unsafe_code)]
fn peer_pidfd(sock: BorrowedFd<'_>) -> Result<OwnedFd, PeerError> {
    let [fd] = option_words(sock, SO_PEERPIDFD).map_err(ask("SO_PEERPIDFD"))?;
    // SAFETY: the kernel has just made this descriptor for us (it is CLOEXEC from birth), and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) })
}

/// The number that a pidfd's process has here (PIDFD_GET_INFO, `linux/pidfd.h`); `None` before Linux 6.13, which has no such
/// request.
#[allow(unsafe_code)]
fn pidfd_info(pidfd: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    /// `struct pidfd_info` as Linux 6.13 has it; later ones only grew.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        pid: u32,
        tgid: u32,
        rest: [u32; 10],
    }
    /// `_IOWR(0xFF, 11, struct pidfd_info)`.
    const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;
    const PIDFD_INFO_PID: u64 = 1;
    let mut info = Info {
        mask: PIDFD_INFO_PID,
        ..Info::default()
    };
    // SAFETY: the request writes at most the 64 bytes that its number says, which `Info` has; any bytes are a valid `Info`.
    let answer = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    if answer == 0 {
        return Ok((info.mask & PIDFD_INFO_PID != 0).then_some(info.tgid));
    }
    let error = std::io::Error::last_os_error();
    match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
        Errno::NOTTY | Errno::INVAL => Ok(None),
        errno => Err(errno),
    }
}

/// Reads a socket option that is `N` words of 32 bits: a number, or `struct ucred`. (rustix reads `struct ucred` too, but
/// into a type in which a process number of 0 is undefined behaviour, and 0 is what an unseen peer has.)
#[allow(unsafe_code)]
pub(crate) fn option_words<const N: usize>(
    sock: BorrowedFd<'_>,
    option: libc::c_int,
) -> Result<[u32; N], Errno> {
    let mut words = [0_u32; N];
    let size = size_of_val(&words);
    let mut length = libc::socklen_t::try_from(size).map_err(|_| Errno::INVAL)?;
    // SAFETY: `length` is the size of `words` in bytes, which the kernel does not write past; any bytes are valid words.
    let answer = unsafe {
        libc::getsockopt(
            sock.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    if usize::try_from(length) == Ok(size) {
        Ok(words)
    } else {
        Err(Errno::INVAL)
    }
}

/// Sets a socket option that is a number.
#[allow(unsafe_code)]
pub(crate) fn set_option(
    sock: BorrowedFd<'_>,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(|_| Errno::INVAL)?;
    // SAFETY: the value is a live variable of that length, which the kernel only reads.
    let answer = unsafe {
        libc::setsockopt(
            sock.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::{PeerError, alive, pidfd_by_start_time, pidfd_info};
    use rustix::process::Pid;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    #[test]
    fn before_linux_6_5_a_process_is_known_by_its_start_time() {
        // A name that looks like the fields after it.
        let mut child = Command::new("sh")
            .args(["-c", "printf ') R 1 (' >/proc/$$/comm; echo; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_by_start_time(pid).unwrap();
        assert!(alive(pidfd.as_fd()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!alive(pidfd.as_fd()));
        let error = pidfd_by_start_time(pid).unwrap_err();
        assert!(matches!(error, PeerError::Gone(_)), "{error}");
    }

    #[test]
    fn a_pidfd_names_its_process_as_long_as_that_lives() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = super::pidfd_open(Pid::from_child(&child), super::PidfdFlags::empty()).unwrap();
        let named = pidfd_info(pidfd.as_fd()).unwrap();
        assert!(named.is_none_or(|pid| pid == child.id()), "{named:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
        let gone = pidfd_info(pidfd.as_fd());
        assert!(named.is_none() || gone.is_err(), "{gone:?}");
    }
}
