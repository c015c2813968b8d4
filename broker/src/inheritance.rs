//! The descriptors that the launcher hands over, and the check that they are what they should be.
//!
//! 0 and 1 are of no use, 2 is the log, 3 the link, 4 the policy. Any further one would be a leak out of the privileged
//! half into this one: it is closed before anything else is done.

use portcullis_policy::Policy;
use portcullis_wire::{AgentName, PolicyBundle, codec};
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What was handed over.
#[derive(Debug)]
pub struct Inheritance {
    /// The socket to the launcher, non-blocking.
    pub link: OwnedFd,
    /// The compiled policy; nothing when there is none; a text when the launcher's policy does not compile here.
    pub policy: Result<Option<Policy>, String>,
}

/// A descriptor is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum InheritanceError {
    /// One of the two is of another kind, or is missing.
    #[error(
        "descriptor {fd} is not {what}: {why}; this program is started by portcullis-launcher, not by hand"
    )]
    Kind {
        /// Its number.
        fd: RawFd,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// What else was inherited stays open.
    #[error("close_range: {0}; Linux 5.9 or later is needed")]
    Surplus(#[source] std::io::Error),
    /// The policy is not for this agent.
    #[error("descriptor 4 holds the policy of the agent {0:?}")]
    OtherAgent(String),
}

/// The link's descriptor. The system-call filter names it.
pub const LINK: RawFd = 3;
const POLICY: RawFd = 4;

impl Inheritance {
    /// Takes the descriptors over and reads the policy.
    ///
    /// # Errors
    /// [`InheritanceError`].
    pub fn take(agent: &str) -> Result<Self, InheritanceError> {
        let [link, policy] = take_over()?;
        let kind = |fd, what| move |why: String| InheritanceError::Kind { fd, what, why };
        check_link(link.as_fd()).map_err(kind(
            LINK,
            "a connected SOCK_SEQPACKET socket of the Unix family",
        ))?;
        let bundle =
            read_bundle(policy).map_err(kind(POLICY, "a sealed memfd with a policy in it"))?;
        if bundle.agent != agent {
            return Err(InheritanceError::OtherAgent(bundle.agent));
        }
        Ok(Self {
            link,
            policy: compile(&bundle),
        })
    }
}

/// Both, once it is known that they are open and that nothing else is.
fn take_over() -> Result<[OwnedFd; 2], InheritanceError> {
    close_surplus().map_err(InheritanceError::Surplus)?;
    for fd in [LINK, POLICY] {
        if !is_open(fd) {
            let (what, why) = ("there", "it is not open".to_owned());
            return Err(InheritanceError::Kind { fd, what, why });
        }
    }
    Ok([own(LINK), own(POLICY)])
}

#[allow(unsafe_code)]
fn close_surplus() -> std::io::Result<()> {
    let (first, last, flags) = (POLICY + 1, u32::MAX, 0);
    // SAFETY: closes descriptors that nothing in this process owns: it has opened none yet. There are no pointers.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn is_open(fd: RawFd) -> bool {
    // SAFETY: borrowed for one F_GETFD alone, which answers EBADF for a number that is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    !matches!(rustix::io::fcntl_getfd(fd), Err(Errno::BADF))
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: called once for each of 3 and 4, which were just seen to be open and which nothing else in this process owns:
    // they came through exec, and the program has opened nothing yet that it still holds.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn check_link(fd: BorrowedFd<'_>) -> Result<(), String> {
    let text = |errno: Errno| errno.to_string();
    if socket_domain(fd).map_err(text)? != AddressFamily::UNIX {
        return Err("it is of another family".to_owned());
    }
    if socket_type(fd).map_err(text)? != SocketType::SEQPACKET {
        return Err("it is of another type".to_owned());
    }
    if socket_acceptconn(fd).map_err(text)? {
        return Err("it listens".to_owned());
    }
    fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(text)?;
    ioctl_fionbio(fd, true).map_err(text)
}

fn read_bundle(policy: OwnedFd) -> Result<PolicyBundle, String> {
    let seals = fcntl_get_seals(&policy).map_err(|errno| errno.to_string())?;
    if !seals.contains(SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK) {
        return Err("it is not sealed".to_owned());
    }
    let mut file = File::from(policy);
    let mut bytes = Vec::new();
    // Whoever wrote it has left the offset at its end.
    std::io::Seek::rewind(&mut file).map_err(|error| error.to_string())?;
    file.read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    codec::decode_owned(&bytes).map_err(|error| error.to_string())
}

fn compile(bundle: &PolicyBundle) -> Result<Option<Policy>, String> {
    if bundle.files.is_empty() {
        return Ok(None);
    }
    let agent = AgentName::new(&bundle.agent).map_err(|error| error.to_string())?;
    Policy::load(&agent, &bundle.files)
        .map(Some)
        .map_err(|problems| format!("the policy that was handed over is not usable:\n{problems}"))
}
