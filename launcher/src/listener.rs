//! Where clients and operators connect: sockets that systemd hands over, or ones that are bound here.

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How many connections wait to be accepted before connecting blocks.
const BACKLOG: i32 = 128;

/// There is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// systemd gave none, and none is to be bound.
    #[error(
        "no socket, and no [[spool]] in the policy: start portcullis@AGENT.socket, which activates this service, or give \
         --listen PATH"
    )]
    None,
    /// Not what it has to be.
    #[error(
        "descriptor {number} from systemd is no listening Unix SOCK_SEQPACKET socket ({found}): the socket unit needs \
         ListenSequentialPacket="
    )]
    Kind {
        /// Its number.
        number: RawFd,
        /// What it is.
        found: String,
    },
    /// More than one that may be the agent's.
    #[error(
        "systemd handed over {number} sockets besides {control}, the operator's; exactly one is served, the agent's"
    )]
    Several {
        /// How many.
        number: usize,
        /// The operator's.
        control: PathBuf,
    },
    /// Not to be bound.
    #[error("{step} {path}: {error}")]
    Bind {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
}

/// The sockets that systemd handed over.
#[derive(Debug, Default)]
pub struct Inherited(Vec<OwnedFd>);

/// Takes the sockets that systemd hands over (LISTEN_PID, LISTEN_FDS; sd_listen_fds(3)).
///
/// # Errors
/// [`ListenerError::Kind`].
pub fn inherited() -> Result<Inherited, ListenerError> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u8>().ok());
    let mine = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let count = number("LISTEN_FDS").filter(|_| mine).unwrap_or(0);
    let mut sockets = Vec::new();
    for number in (3..).take(count.into()) {
        let kind = |found| ListenerError::Kind { number, found };
        let socket = take_descriptor(number).map_err(|e| kind(e.to_string()))?;
        match (
            sockopt::socket_domain(&socket),
            sockopt::socket_type(&socket),
            sockopt::socket_acceptconn(&socket),
        ) {
            (Ok(AddressFamily::UNIX), Ok(SocketType::SEQPACKET), Ok(true)) => sockets.push(socket),
            other => return Err(kind(format!("{other:?}"))),
        }
    }
    Ok(Inherited(sockets))
}

impl Inherited {
    /// The agent's socket and the operator's, which is the one at the path `control`.
    ///
    /// # Errors
    /// [`ListenerError::Several`].
    pub fn sort(self, control: &Path) -> Result<(Option<OwnedFd>, Option<OwnedFd>), ListenerError> {
        let is_control = |socket: &OwnedFd| {
            let name = rustix::net::getsockname(socket).ok();
            let name = name.and_then(|name| SocketAddrUnix::try_from(name).ok());
            name.is_some_and(|name| name.path_bytes() == Some(control.as_os_str().as_bytes()))
        };
        let (mut controls, mut others): (Vec<_>, Vec<_>) = self.0.into_iter().partition(is_control);
        if others.len() > 1 {
            return Err(ListenerError::Several {
                number: others.len(),
                control: control.to_owned(),
            });
        }
        let operator = controls.pop();
        if let Some(operator) = &operator {
            // systemd's sockets block, and a client that is gone again would then keep the loop waiting for another.
            rustix::io::ioctl_fionbio(operator, true).map_err(|errno| ListenerError::Bind {
                step: "make non-blocking",
                path: control.to_owned(),
                error: errno.into(),
            })?;
        }
        Ok((others.pop(), operator))
    }
}

/// Closes, on exec, every descriptor from 3 on that this process was started with: none is for podman or the broker.
///
/// # Errors
/// When /proc/self/fd cannot be read.
pub fn keep_inherited_from_children() -> io::Result<()> {
    let numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|&number| number > 2) {
        close_on_exec(number);
    }
    Ok(())
}

#[allow(unsafe_code)]
fn close_on_exec(number: i32) {
    // SAFETY: borrowed for this one call, which fails harmlessly if the descriptor is closed by now (the directory's was).
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let _ = fcntl_setfd(fd, FdFlags::CLOEXEC);
}

#[allow(unsafe_code)]
fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: LISTEN_FDS with our own process number says that this descriptor is open and ours; each is taken once,
    // before anything else opens a descriptor. fcntl below finds out if that was a lie.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl_setfd(&socket, FdFlags::CLOEXEC) {
        Ok(()) => Ok(socket),
        Err(errno) => {
            std::mem::forget(socket);
            Err(errno.into())
        }
    }
}

/// Binds a socket, in a directory that is made if it is missing. A socket that nobody serves is replaced.
///
/// # Errors
/// [`ListenerError::Bind`].
pub fn bound(path: &Path, mode: u32) -> Result<OwnedFd, ListenerError> {
    let fail = |step: &'static str| {
        let path = path.to_owned();
        move |errno: Errno| ListenerError::Bind {
            step,
            path,
            error: errno.into(),
        }
    };
    if let Some(parent) = path.parent() {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent);
        made.map_err(|error| ListenerError::Bind {
            step: "create the directory of",
            path: path.to_owned(),
            error,
        })?;
    }
    let address = SocketAddrUnix::new(path).map_err(fail("bind"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let socket = new().map_err(fail("make a socket for"))?;
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            let probe = new().map_err(fail("make a socket for"))?;
            match rustix::net::connect(&probe, &address) {
                Err(Errno::CONNREFUSED) => {}
                _ => return Err(fail("another process serves")(Errno::ADDRINUSE)),
            }
            rustix::fs::unlink(path).map_err(fail("remove the stale"))?;
            bind(&socket, &address).map_err(fail("bind"))?;
        }
        other => other.map_err(fail("bind"))?,
    }
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(|error| ListenerError::Bind {
        step: "set the mode of",
        path: path.to_owned(),
        error,
    })?;
    listen(&socket, BACKLOG).map_err(fail("listen on"))?;
    Ok(socket)
}

/// Takes one connection, if one waits.
///
/// # Errors
/// When accept fails for another reason than that there is none.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match rustix::net::accept_with(
        listener.as_fd(),
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
    ) {
        Ok(client) => Ok(Some(client)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
