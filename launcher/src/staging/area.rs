//! The mounts themselves: the private tmpfs, what is taken away from it, and what earlier lives left.

use super::StagingError;
use super::resolve::last_error;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags};
use rustix::mount::{MoveMountFlags, UnmountFlags};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the directory of one launcher's life is called, before the part that makes it unique.
pub(super) const LIFE: &str = "staging-";

/// Mounts the private tmpfs on `path` and opens it.
pub(super) fn mount_area(path: &Path) -> Result<OwnedFd, (&'static str, Errno)> {
    use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount};
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| ("fsopen", e))?;
    // Room for names and nothing else: what is staged are mounts.
    for (key, value) in [("mode", "0700"), ("size", "64k"), ("nr_inodes", "4096")] {
        fsconfig_set_string(&tmpfs, key, value).map_err(|e| ("fsconfig", e))?;
    }
    fsconfig_create(&tmpfs).map_err(|e| ("fsconfig", e))?;
    let shut = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // Where /run is shared with somebody (systemd shares everything), attaching it puts a copy there as well. The copy
    // stays read-only for ever; ours is made writable as it is made private, and nothing staged reaches the copy.
    let attributes = shut | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let area =
        fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| ("fsmount", e))?;
    move_mount(
        &area,
        "",
        rustix::fs::CWD,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(|e| ("move_mount", e))?;
    // Unbindable is private and more: who binds all of /run elsewhere on the host leaves it out. A new mount namespace,
    // that of a container that is given / for instance, does copy what is staged just then: see `take_away`.
    mount_setattr(
        area.as_fd(),
        MountAttrFlags::empty(),
        MountAttrFlags::MOUNT_ATTR_RDONLY,
        MountPropagationFlags::UNBINDABLE,
        false,
    )
    .map_err(|e| ("mount_setattr", e))?;
    Ok(area)
}

/// What [`sweep`](super::Staging::sweep) says.
pub(super) fn sweep(parent: &Path, keep: Option<&Path>) -> Vec<StagingError> {
    let Ok(parent) = parent.canonicalize() else {
        return Vec::new();
    };
    let keep = keep.and_then(Path::file_name);
    let stale = |life: &OsStr| life.as_bytes().starts_with(LIFE.as_bytes()) && Some(life) != keep;
    let mut failures = Vec::new();
    let mut failed = |path: PathBuf, source| failures.push(StagingError::Sweep { path, source });

    match fs::read("/proc/self/mountinfo") {
        Ok(mounts) => {
            // The youngest first, so that a mount goes before what it stands on.
            for point in mounts.split(|b| *b == b'\n').rev().filter_map(mount_point) {
                let Ok(beneath) = point.strip_prefix(&parent) else {
                    continue;
                };
                if beneath.iter().next().is_some_and(stale)
                    && let Err(errno) = rustix::mount::unmount(&point, DETACH)
                    && !matches!(errno, Errno::NOENT | Errno::INVAL)
                {
                    failed(point, errno.into());
                }
            }
        }
        Err(error) => failed(PathBuf::from("/proc/self/mountinfo"), error),
    }
    match fs::read_dir(&parent) {
        Ok(entries) => {
            for entry in entries.flatten().filter(|e| stale(&e.file_name())) {
                if let Err(error) = fs::remove_dir(entry.path()) {
                    failed(entry.path(), error);
                }
            }
        }
        Err(error) => failed(parent, error),
    }
    failures
}

/// A detached mount is gone from its name at once, whoever still has something open in it.
const DETACH: UnmountFlags = UnmountFlags::DETACH.union(UnmountFlags::NOFOLLOW);

/// Unmounts `path`, and removes it whether or not it was mounted: an empty directory or file is beneath.
/// Removing the name is what ends the copies that other mount namespaces have of the mount: the kernel detaches them.
pub(super) fn take_away(path: &Path) -> Result<(), (&'static str, Errno)> {
    let unmounted = rustix::mount::unmount(path, DETACH).map_err(|errno| ("umount2", errno));
    // Of what is still mounted nothing can be removed: that is EBUSY, not a file of somebody's.
    let removed = match rustix::fs::rmdir(path) {
        Err(Errno::NOTDIR) => rustix::fs::unlink(path).map_err(|errno| ("unlink", errno)),
        other => other.map_err(|errno| ("rmdir", errno)),
    };
    unmounted.and(removed)
}

/// The mount point in one line of `mountinfo`, where blanks and backslashes are written as `\` and three octal digits.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let mut field = line.split(|b| *b == b' ').nth(4)?;
    let mut point = Vec::with_capacity(field.len());
    while let [first, rest @ ..] = field {
        field = rest;
        match (first, rest) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) => {
                point.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                field = rest;
            }
            _ => point.push(*first),
        }
    }
    Some(PathBuf::from(OsString::from_vec(point)))
}

/// Changes a mount, which need not be attached to anything, and with `AT_RECURSIVE` all that is mounted on it: either all
/// of it changes or nothing does.
#[allow(unsafe_code)]
pub(super) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    propagation: MountPropagationFlags,
    recursive: bool,
) -> Result<(), Errno> {
    /// `struct mount_attr` of Linux 5.12, all of it.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attr = MountAttr {
        set: set.bits().into(),
        clear: clear.bits().into(),
        propagation: propagation.bits().into(),
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string and `attr` is as large as the kernel is told; both outlive the call, which only
    // reads them. The descriptor is borrowed, so open.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if answer < 0 {
        Err(last_error())
    } else {
        Ok(())
    }
}
