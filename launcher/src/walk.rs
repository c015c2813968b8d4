//! The way to a path that the operator wrote, component by component.
//!
//! Symbolic links are followed only where nobody but root could have made them: as long as every directory on the way is
//! root's and not writable by others. From the first one on that is not, an agent may have planted what is found there,
//! and a link is refused.

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// As many links as the kernel follows.
const LINKS: usize = 40;

/// Where the way led.
pub(crate) struct Arrived {
    /// What is there, opened with `O_PATH`.
    pub(crate) fd: OwnedFd,
    /// What it is.
    pub(crate) stat: Stat,
    /// Every directory on the way was root's alone: only root can have decided what is there.
    pub(crate) operators: bool,
}

/// Walks an absolute path.
pub(crate) fn walk(path: &Path) -> Result<Arrived, Errno> {
    let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = || rustix::fs::open("/", place, Mode::empty());
    let mut left = components(path.as_os_str().as_bytes());
    let mut fd = root()?;
    let mut stat = rustix::fs::fstat(&fd)?;
    let (mut operators, mut links) = (path.is_absolute(), 0);
    if !operators {
        return Err(Errno::INVAL);
    }
    while let Some(component) = left.pop_front() {
        operators = operators && is_roots_alone(&stat);
        let name = OsStr::from_bytes(&component);
        if name == ".." && !operators {
            return Err(Errno::XDEV);
        }
        let next = rustix::fs::openat(&fd, name, place, Mode::empty())?;
        let found = rustix::fs::fstat(&next)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
            (fd, stat) = (next, found);
            continue;
        }
        links += 1;
        if !operators || links > LINKS {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
        if target.as_bytes().starts_with(b"/") {
            fd = root()?;
            stat = rustix::fs::fstat(&fd)?;
        }
        let mut way = components(target.as_bytes());
        way.append(&mut left);
        left = way;
    }
    Ok(Arrived {
        fd,
        stat,
        operators,
    })
}

/// What kind of file that is, in words.
pub(crate) fn kind(file: FileType) -> &'static str {
    match file {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "of an unknown kind",
    }
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    let plain = path
        .split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".");
    plain.map(<[u8]>::to_vec).collect()
}

fn is_roots_alone(directory: &Stat) -> bool {
    let others = Mode::WGRP | Mode::WOTH;
    directory.st_uid == 0 && !Mode::from_raw_mode(directory.st_mode).intersects(others)
}
