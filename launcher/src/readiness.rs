//! Readiness: whether a side container's program has written its pid file.
//!
//! The file is the container's, or the agent's: it is looked up inside the container's root without following a link, it
//! is never waited for, and its number counts only if a living process of that very container has it. Nothing here may
//! block, whatever is found at the path.

use rustix::fs::{FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};
use rustix::io::Errno;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Why it can never be ready like this: waiting longer does not help.
#[derive(Debug, thiserror::Error)]
pub enum ReadinessError {
    /// There is a symbolic link in the path.
    #[error(
        "the pid file {path:?} of process {pid} is behind a symbolic link, and none is followed; name its real path in the rule"
    )]
    Symlink {
        /// The container's main process.
        pid: u32,
        /// The pid file, as the container sees it.
        path: String,
    },
    /// It is no file.
    #[error("the pid file {path:?} of process {pid} is not a regular file")]
    Kind {
        /// The container's main process.
        pid: u32,
        /// The pid file, as the container sees it.
        path: String,
    },
    /// The system did not let it be looked at.
    #[error("the pid file {path:?} of process {pid} cannot be judged: {step}: {errno}")]
    Look {
        /// The container's main process.
        pid: u32,
        /// The pid file, as the container sees it.
        path: String,
        /// What failed.
        step: &'static str,
        /// How.
        errno: Errno,
    },
}

/// How paths are looked up in a container's root.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Whether `pid_file`, as the container of main process `pid` sees it, names a living process of that container.
/// `host_pid`: the container is in the host's PID namespace. `false` is "not yet", and also when `pid` has ended; the
/// caller holds that process's pidfd and believes a `true` only if the process lives after it.
///
/// # Errors
/// [`ReadinessError`], when the pid file is of a kind that is not read.
pub fn pid_file_holds(pid: u32, pid_file: &str, host_pid: bool) -> Result<bool, ReadinessError> {
    let error = |step| {
        move |errno| ReadinessError::Look {
            pid,
            path: pid_file.to_owned(),
            step,
            errno,
        }
    };
    let root = format!("/proc/{pid}/root");
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, place, Mode::empty());
    let Some(root) = present(root).map_err(error("open its root"))? else {
        return Ok(false);
    };
    let file = match open_pid_file(&root, pid_file) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(false),
        Err(Refused::Symlink) => {
            let path = pid_file.to_owned();
            return Err(ReadinessError::Symlink { pid, path });
        }
        Err(Refused::Kind) => {
            let path = pid_file.to_owned();
            return Err(ReadinessError::Kind { pid, path });
        }
        Err(Refused::Errno(errno)) => return Err(error("open")(errno)),
    };
    // Longer than any number in decimal, and than the blanks and line ends that are not accepted anyway.
    let mut buffer = [0; 64];
    let length = rustix::io::read(&file, &mut buffer).map_err(error("read"))?;
    match buffer.get(..length).and_then(number) {
        Some(number) => belongs(pid, &root, number, host_pid).map_err(error("look up its process")),
        None => Ok(false),
    }
}

enum Refused {
    Symlink,
    Kind,
    Errno(Errno),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// First the place, which touches nothing, then the file: merely opening a FIFO or a device has effects.
fn open_pid_file(root: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, Refused> {
    let place = OFlags::PATH | OFlags::CLOEXEC;
    let place = match rustix::fs::openat2(root, path, place, Mode::empty(), INSIDE) {
        Err(Errno::LOOP) => return Err(Refused::Symlink),
        // Something was renamed or mounted, anywhere, while the kernel saw to it that `..` leads nowhere.
        Err(Errno::AGAIN) => return Ok(None),
        other => present(other)?,
    };
    let Some(place) = place else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(&place)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refused::Kind);
    }
    // O_NONBLOCK: whoever holds a lease on the file would make us wait for up to 45 s.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let itself = format!("/proc/self/fd/{}", place.as_raw_fd());
    match rustix::fs::open(itself, flags, Mode::empty()) {
        Err(Errno::AGAIN) => Ok(None),
        other => Ok(present(other)?),
    }
}

/// What is not there, or not there any more, may yet come.
fn present<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::SRCH) => Ok(None),
        Err(other) => Err(other),
    }
}

/// A bare decimal number above 0, with or without a line end.
fn number(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number > 0).then_some(number)
}

/// Whether `number` is a process of the container, in the numbering that the container has: one in the mount namespace of
/// its main process. A number left over from an earlier container is none, nor is one that lives elsewhere on the host.
fn belongs(pid: u32, root: &OwnedFd, number: u32, host_pid: bool) -> Result<bool, Errno> {
    let Some(ours) = mount_namespace(rustix::fs::CWD, &format!("/proc/{pid}"))? else {
        return Ok(false);
    };
    if host_pid {
        return match mount_namespace(rustix::fs::CWD, &format!("/proc/{number}")) {
            // A process that a security module hides from us, such as the host's first, is none of the container's.
            Err(Errno::ACCESS | Errno::PERM) => Ok(false),
            theirs => Ok(theirs? == Some(ours)),
        };
    }
    if own_number(pid) == Some(number) {
        return Ok(true);
    }
    // Of other processes only the container's own /proc knows the numbers.
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = format!("/proc/{number}");
    let process = rustix::fs::openat2(root, process, place, Mode::empty(), INSIDE);
    let Some(process) = present(process)? else {
        return Ok(false);
    };
    if rustix::fs::fstatfs(&process)?.f_type != PROC_SUPER_MAGIC {
        return Ok(false);
    }
    Ok(mount_namespace(&process, ".")? == Some(ours))
}

/// Device and number of a process's mount namespace; a process that has ended, reaped or not, is in none.
fn mount_namespace(at: impl AsFd, process: &str) -> Result<Option<(u64, u64)>, Errno> {
    let stat = rustix::fs::statat(
        at,
        format!("{process}/ns/mnt"),
        rustix::fs::AtFlags::empty(),
    );
    Ok(present(stat)?.map(|stat| (stat.st_dev, stat.st_ino)))
}

/// The number that a process has in its own PID namespace: the last of `NSpid`.
fn own_number(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok()
}
