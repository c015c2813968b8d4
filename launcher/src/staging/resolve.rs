//! From names that an agent may have planted to descriptors of what may be used. No link is followed on the way (see
//! `walk`): what a descriptor says counts, a name is never asked twice.

use super::StagingError;
use crate::walk::{Arrived, WalkError, kind, walk, walk_beneath};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A network namespace that may be handed to podman.
#[derive(Debug)]
pub struct Namespace {
    /// The namespace file, opened with `O_PATH`: it keeps the namespace in being.
    pub fd: OwnedFd,
    /// The device of namespace files.
    pub dev: u64,
    /// The namespace's own number, as `stat -L /proc/PID/ns/net` has it.
    pub ino: u64,
    /// What it was found by, for messages.
    pub(super) path: PathBuf,
}

/// What [`resolve_netns`](super::Staging::resolve_netns) says.
pub(super) fn netns(root: &Path, name: &str) -> Result<Namespace, StagingError> {
    let path = root.join(name);
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(StagingError::NetnsName(name.to_owned()));
    }
    // The names of namespaces are mounts themselves.
    match walk_beneath(root, Path::new(name), ResolveFlags::empty()) {
        Ok(Arrived { fd, stat }) => judge_netns(fd, &stat, path),
        Err(error) => Err(StagingError::NetnsOpen { path, error }),
    }
}

/// A mount source as it was found.
pub(super) struct FoundSource {
    /// The very object.
    pub(super) fd: OwnedFd,
    /// What it was found by, for messages.
    pub(super) path: PathBuf,
    /// A directory, or else a file that can be mounted.
    pub(super) directory: bool,
}

/// What [`stage_source`](super::Staging::stage_source) says of sources.
pub(super) fn source(prefix: &Path, rest: &Path) -> Result<FoundSource, StagingError> {
    let path = prefix.join(rest);
    let mut components = rest.as_os_str().as_bytes().split(|b| *b == b'/');
    if components.any(|component| matches!(component, b"" | b"." | b"..")) {
        return Err(StagingError::SourceName(path));
    }
    // What host root has mounted beneath an agent's directory hangs on a directory, which the agent can move. Where the
    // rule leaves the whole path to the request, from `/` on, mounts are part of what it grants.
    let mounts = if prefix == Path::new("/") {
        ResolveFlags::empty()
    } else {
        ResolveFlags::NO_XDEV
    };
    judge_source(walk_beneath(prefix, rest, mounts), path)
}

/// What [`stage_literal`](super::Staging::stage_literal) says of sources.
pub(super) fn literal(path: &Path) -> Result<FoundSource, StagingError> {
    judge_source(walk(path), path.to_owned())
}

fn judge_source(
    found: Result<Arrived, WalkError>,
    path: PathBuf,
) -> Result<FoundSource, StagingError> {
    let Arrived { fd, stat } = match found {
        Ok(found) => found,
        Err(error) => return Err(StagingError::SourceOpen { path, error }),
    };
    let directory = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile | FileType::Socket => false,
        other => {
            let what = kind(other);
            return Err(StagingError::SourceKind { path, what });
        }
    };
    Ok(FoundSource {
        fd,
        path,
        directory,
    })
}

fn judge_netns(fd: OwnedFd, stat: &Stat, path: PathBuf) -> Result<Namespace, StagingError> {
    let unopened = |errno: Errno| StagingError::NetnsOpen {
        path: path.clone(),
        error: errno.into(),
    };
    // The file system first: reopening a FIFO would wait for its other end, and a device might do anything.
    let filesystem = rustix::fs::fstatfs(&fd).map_err(unopened)?;
    if i128::from(filesystem.f_type) != i128::from(libc::NSFS_MAGIC) {
        let what = kind(FileType::from_raw_mode(stat.st_mode));
        return Err(StagingError::NetnsKind { path, what });
    }
    // A place takes no ioctl. Through its descriptor it is the same object, whatever the name says by now.
    let itself = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let readable = rustix::fs::open(itself, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(unopened)?;
    if namespace_type(readable.as_fd()).map_err(unopened)? != libc::CLONE_NEWNET {
        return Err(StagingError::NetnsKind {
            path,
            what: "a namespace of another type",
        });
    }
    let (host, own) = (host_namespace()?, identity("/proc/self/ns/net")?);
    let found = (stat.st_dev, stat.st_ino);
    if found == host || found == own {
        return Err(StagingError::NetnsHost { path });
    }
    Ok(Namespace {
        fd,
        dev: stat.st_dev,
        ino: stat.st_ino,
        path,
    })
}

/// The network namespace of the host: that of process 1. A security module may forbid to look at process 1, even to root;
/// then it is that of the kernel's own threads, which a process 2 in a container, being no such thread, does not show.
fn host_namespace() -> Result<(u64, u64), StagingError> {
    match identity("/proc/1/ns/net") {
        Err(StagingError::NetnsJudge {
            errno: Errno::ACCESS | Errno::PERM,
            ..
        }) if is_kernel_thread("/proc/2/stat") => identity("/proc/2/ns/net"),
        answer => answer,
    }
}

/// What tells a namespace from every other: the device and number of its file.
fn identity(path: &'static str) -> Result<(u64, u64), StagingError> {
    let stat = rustix::fs::stat(path).map_err(|errno| StagingError::NetnsJudge { path, errno })?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The flags are the 9th field; the 2nd is a name that a program may choose, brackets included.
fn is_kernel_thread(stat: &str) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let stat = fs::read_to_string(stat).unwrap_or_default();
    let flags = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(6));
    flags
        .and_then(|flags| flags.parse::<u32>().ok())
        .is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// The `CLONE_NEW*` flag that makes namespaces of this one's type.
#[allow(unsafe_code)]
fn namespace_type(namespace: BorrowedFd<'_>) -> Result<libc::c_int, Errno> {
    // SAFETY: NS_GET_NSTYPE takes no third argument and touches no memory of ours; the descriptor is borrowed, so open.
    let answer = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if answer < 0 {
        Err(last_error())
    } else {
        Ok(answer)
    }
}

/// `errno`, as the last call of the C library in this thread left it.
pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
