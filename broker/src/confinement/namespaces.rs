//! The layer `namespaces`: an empty root, and mount, network, IPC, UTS and cgroup namespaces that nothing else is in.
//!
//! The root is a tmpfs without a single file, read-only. The old root is gone from this process's view: there is no path
//! that leads anywhere, even if a later layer is missing. Needs CAP_SYS_ADMIN, so it comes before the layer `user`.

use super::LayerError;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{fchdir, pivot_root};
use rustix::thread::UnshareFlags;
use std::os::fd::AsFd;

/// Any directory that every host has: the empty root is mounted there for a moment, in this process's view alone.
const PLACE: &str = "/proc";

/// Leaves every namespace that can be left without becoming another process, and the root.
///
/// # Errors
/// [`LayerError`].
pub fn enter() -> Result<(), LayerError> {
    unshare().map_err(LayerError::call("unshare"))?;
    // Before anything is mounted: where the host's mounts are shared, the host would see it.
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(LayerError::call("mount(MS_PRIVATE)"))?;
    let root = empty().map_err(LayerError::call("make an empty root"))?;
    move_mount(
        &root,
        "",
        rustix::fs::CWD,
        PLACE,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(LayerError::call("move_mount"))?;
    fchdir(root.as_fd()).map_err(LayerError::call("fchdir"))?;
    pivot_root(".", ".").map_err(LayerError::call("pivot_root"))?;
    // The old root lies on top of the new one now.
    unmount(".", UnmountFlags::DETACH).map_err(LayerError::call("umount2"))?;
    rustix::process::chdir("/").map_err(LayerError::call("chdir"))?;
    match rustix::fs::stat("/proc") {
        Err(Errno::NOENT) => Ok(()),
        _ => Err(LayerError::NotHeld(
            "the old root can still be seen".to_owned(),
        )),
    }
}

/// A tmpfs that nothing can be put into.
fn empty() -> Result<std::os::fd::OwnedFd, Errno> {
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("mode", "0000"), ("size", "4k"), ("nr_inodes", "1")] {
        fsconfig_set_string(&tmpfs, key, value)?;
    }
    fsconfig_create(&tmpfs)?;
    let shut = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, shut)
}

#[allow(unsafe_code)]
fn unshare() -> Result<(), Errno> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: none of these flags takes the descriptor table apart, which is what makes this call unsafe.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
