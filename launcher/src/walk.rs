//! The way to a path of a policy or of the host's configuration, from `/` on.
//!
//! No symbolic link is followed, whoever owns the directories: an agent that is uid 0 in its container makes its own
//! directories root's, so ownership shows nothing about who made a link. An agent that can write a directory on the way can
//! put another directory of its own there, and nothing else: the way goes downwards only.

use portcullis_policy::HOST_LINKS;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Nothing is read, nothing blocks.
const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// What is refused on every way.
const LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);
/// How many characters of a link's target are shown.
const TARGET: usize = 256;

/// Where the way led.
pub(crate) struct Arrived {
    /// What is there, opened with `O_PATH`.
    pub(crate) fd: OwnedFd,
    /// What it is.
    pub(crate) stat: Stat,
}

/// Why it led nowhere.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// It is no path from the root, or has `..` in it.
    #[error("it is not written from `/` without `..`")]
    NotPlain,
    /// A component is a link.
    #[error(
        "a symbolic link is in its way, and none is followed: {} -> {}",
        shown(.link, usize::MAX), shown(.target, TARGET)
    )]
    Link {
        /// The link.
        link: PathBuf,
        /// Where it leads, as it stands there.
        target: PathBuf,
    },
    /// The kernel said no.
    #[error("{}", why(*.0))]
    Kernel(#[from] Errno),
}

/// An agent chose where its link leads: nothing of that may change what a terminal shows.
fn shown(path: &Path, most: usize) -> String {
    let text = path.to_string_lossy();
    text.escape_debug().take(most).collect()
}

/// What the kernel says of a lookup that is restricted says little in its own words.
fn why(errno: Errno) -> String {
    match errno {
        Errno::LOOP => "a symbolic link is in its way, and none is followed".to_owned(),
        Errno::XDEV => {
            "something is mounted in its way, and no mount is crossed in what an agent can name"
                .to_owned()
        }
        other => other.to_string(),
    }
}

impl WalkError {
    /// Whether there is nothing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Kernel(Errno::NOENT))
    }

    /// The kernel's word, where it is that.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel(errno) => Some(*errno),
            Self::NotPlain | Self::Link { .. } => None,
        }
    }
}

/// Opens an absolute path as a mere place.
pub(crate) fn walk(path: &Path) -> Result<Arrived, WalkError> {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return Err(WalkError::NotPlain);
    }
    let path = without_host_links(path);
    arrive(
        rustix::fs::openat2(CWD, &path, PLACE, Mode::empty(), LINKS),
        &path,
    )
}

/// Opens what is beneath such a path: `rest` has no `..` and names nothing outside. `more` is refused, too.
pub(crate) fn walk_beneath(
    top: &Path,
    rest: &Path,
    more: ResolveFlags,
) -> Result<Arrived, WalkError> {
    let how = ResolveFlags::BENEATH | LINKS | more;
    let fd = walk(top)?.fd;
    let opened = rustix::fs::openat2(&fd, rest, PLACE, Mode::empty(), how);
    arrive(opened, &top.join(rest))
}

fn arrive(opened: Result<OwnedFd, Errno>, path: &Path) -> Result<Arrived, WalkError> {
    match opened {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd)?;
            Ok(Arrived { fd, stat })
        }
        Err(Errno::LOOP) => Err(first_link(path).unwrap_or(WalkError::Kernel(Errno::LOOP))),
        Err(errno) => Err(errno.into()),
    }
}

/// The path with the host's own links replaced, where the host has them: each directly beneath `/var`, both root's, and
/// leading where it should. The replacement is a text that stands here, so that whoever can change the link gains nothing.
fn without_host_links(path: &Path) -> PathBuf {
    for (link, target) in HOST_LINKS {
        let Ok(rest) = path.strip_prefix(link) else {
            continue;
        };
        if is_host_link(link, target) {
            // No `/` at the end where nothing follows: that would ask for a directory.
            return Path::new(target)
                .components()
                .chain(rest.components())
                .collect();
        }
    }
    path.to_owned()
}

fn is_host_link(link: &str, target: &str) -> bool {
    let is_roots = |path: &Path, kind| {
        let stat = rustix::fs::lstat(path);
        stat.is_ok_and(|stat| stat.st_uid == 0 && FileType::from_raw_mode(stat.st_mode) == kind)
    };
    // Debian writes it from the root, Fedora from where it is.
    let leads = |found: &[u8]| {
        let found = found.strip_prefix(b"..").unwrap_or(found);
        found == target.as_bytes()
    };
    is_roots(Path::new("/var"), FileType::Directory)
        && is_roots(Path::new(link), FileType::Symlink)
        && rustix::fs::readlink(link, Vec::new()).is_ok_and(|found| leads(found.as_bytes()))
}

/// Which link it was, to be told: what is found here is not used for anything else. `None` where it has changed meanwhile.
fn first_link(path: &Path) -> Option<WalkError> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find_map(|link| {
        let target = rustix::fs::readlink(link, Vec::new()).ok()?;
        Some(WalkError::Link {
            link: link.to_owned(),
            target: PathBuf::from(OsStr::from_bytes(target.as_bytes())),
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn refusal(path: &Path) -> String {
        walk(path)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn plain_way_is_walked() {
        let dir = tempfile::tempdir_in("/run").unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        assert!(walk(&dir.path().join("a/b")).is_ok());
        assert!(walk(Path::new("/")).is_ok());
        assert!(walk(&dir.path().join("c")).err().unwrap().is_not_found());
    }

    #[test]
    fn link_is_named_wherever_it_stands() {
        let dir = tempfile::tempdir_in("/run").unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        symlink("a", at("first")).unwrap();
        symlink(at("a/b"), at("a/last")).unwrap();
        symlink("/proc/self/cwd", at("magic")).unwrap();
        for (path, named) in [
            ("first/b", "first -> a"),
            ("first", "first -> a"),
            ("a/last", "a/last -> /"),
            ("a/last/c", "a/last -> /"),
            ("magic/c", "magic -> /proc/self/cwd"),
        ] {
            let refusal = refusal(&at(path));
            assert!(refusal.contains(named), "{path}: {refusal}");
        }
    }

    #[test]
    fn magic_link_is_not_followed() {
        for path in ["/proc/self/root/run", "/proc/self/cwd", "/proc/self/ns/net"] {
            let refusal = refusal(Path::new(path));
            assert!(refusal.contains("symbolic link"), "{refusal}");
        }
    }

    #[test]
    fn way_upwards_or_from_nowhere_is_refused() {
        for path in ["/run/../etc", "run", "", "/..", "./run"] {
            assert!(
                matches!(walk(Path::new(path)), Err(WalkError::NotPlain)),
                "{path}"
            );
        }
    }

    /// These are as every host has them; where one has not, the path is walked as it stands.
    #[test]
    fn host_links_alone_are_replaced() {
        for (link, target) in HOST_LINKS {
            if fs::symlink_metadata(link).is_ok_and(|found| found.is_symlink()) {
                let place = |path| walk(Path::new(path)).map(|found| found.stat.st_ino);
                assert_eq!(place(link).unwrap(), place(target).unwrap(), "{link}");
            }
        }
        assert!(!is_host_link("/var/run", "/run/lock"));
        assert!(!is_host_link("/var/tmp", "/tmp"));
    }
}
