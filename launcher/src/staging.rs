//! Staging: what a plan names (a network namespace, a mount source), pinned where nobody but the launcher can reach it.
//!
//! podman takes paths, and an agent may write in directories on the way to any of them, even while this runs. So a name
//! is opened once, without following a link, judged by its descriptor alone, and that very object is cloned under a fresh
//! name on a private tmpfs; podman gets that path. Trusted: the text that the operator wrote, and the kernel. A checked path
//! must never be walked a second time.

mod area;
mod error;
mod resolve;

pub use error::{StagingError, WalkError};
pub use resolve::Namespace;

use area::{LIFE, mount_area, mount_setattr, take_away};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The staging area of one launcher's life: a private tmpfs with a name that never was used before.
///
/// Dropping it takes everything with it that is still staged; a podman that is still at work would miss that.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    directory: OwnedFd,
    next: AtomicU64,
}

impl Staging {
    /// Makes `parent/staging-UNIQUE` and mounts the private tmpfs on it. `parent` has to be root's alone to write.
    ///
    /// # Errors
    /// [`StagingError::Parent`] and [`StagingError::Area`].
    pub fn new(parent: &Path) -> Result<Self, StagingError> {
        let parent = checked_parent(parent)?;
        let life = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(|error| {
            StagingError::Parent {
                path: parent.clone(),
                problem: format!("/proc/sys/kernel/random/uuid gives it no name: {error}"),
            }
        })?;
        let path = parent.join(format!("{LIFE}{}", life.trim_end()));
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(|errno| StagingError::Area {
            path: path.clone(),
            step: "mkdir",
            errno,
        })?;
        match mount_area(&path) {
            Ok(directory) => Ok(Self {
                path,
                directory,
                next: AtomicU64::new(0),
            }),
            Err((step, errno)) => {
                let _ = take_away(&path);
                Err(StagingError::Area { path, step, errno })
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Detaches and removes what earlier lives left beneath `parent`, except `keep` (which a podman of an earlier life
    /// may still need). Goes on after a failure, and returns what it could not do. Never deletes a file.
    pub fn sweep(parent: &Path, keep: Option<&Path>) -> Vec<StagingError> {
        area::sweep(parent, keep)
    }

    /// Opens the namespace that `name` beneath `root` stands for, and makes sure that it is one that may be used: a
    /// network namespace, and neither the host's (that of process 1) nor the launcher's own.
    ///
    /// # Errors
    /// The variants of [`StagingError`] that begin with `Netns`.
    pub fn resolve_netns(root: &Path, name: &str) -> Result<Namespace, StagingError> {
        resolve::netns(root, name)
    }

    /// Puts a namespace where podman can be pointed to.
    ///
    /// # Errors
    /// [`StagingError::Stage`].
    pub fn stage_netns(&self, ns: &Namespace) -> Result<StagedPath, StagingError> {
        let inert = MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let tree = clone(ns.fd.as_fd(), inert, false).map_err(|(step, errno)| {
            let path = ns.path.clone();
            StagingError::Stage { path, step, errno }
        })?;
        self.attach(&tree, &ns.path, false)
    }

    /// Puts what `rest` names beneath `prefix` where podman can be pointed to: a directory, a regular file or a socket. No
    /// symbolic link is followed on the whole way. What is mounted on or beneath it is the agent's neither to reach nor to
    /// give: no mount is crossed in `rest`, and none comes along.
    ///
    /// # Errors
    /// The variants of [`StagingError`] that begin with `Source`, and [`StagingError::Stage`].
    pub fn stage_source(
        &self,
        prefix: &Path,
        rest: &Path,
        read_only: bool,
    ) -> Result<StagedPath, StagingError> {
        self.stage_found(&resolve::source(prefix, rest)?, read_only, false)
    }

    /// The same for a path that the operator wrote out: what is mounted beneath it comes along, as read-only as itself.
    ///
    /// # Errors
    /// As for [`stage_source`](Self::stage_source).
    pub fn stage_literal(&self, path: &Path, read_only: bool) -> Result<StagedPath, StagingError> {
        self.stage_found(&resolve::literal(path)?, read_only, true)
    }

    fn stage_found(
        &self,
        source: &resolve::FoundSource,
        read_only: bool,
        recursive: bool,
    ) -> Result<StagedPath, StagingError> {
        let mut attributes = MountAttrFlags::empty();
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
        let (fd, path) = (source.fd.as_fd(), &source.path);
        let tree = clone(fd, attributes, recursive).map_err(|(step, errno)| {
            let path = path.clone();
            StagingError::SourceClone { path, step, errno }
        })?;
        self.attach(&tree, path, source.directory)
    }

    /// Moves a clone to a fresh name.
    fn attach(
        &self,
        tree: &OwnedFd,
        source: &Path,
        directory: bool,
    ) -> Result<StagedPath, StagingError> {
        let failed = |step| {
            let path = source.to_owned();
            move |errno| StagingError::Stage { path, step, errno }
        };
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        make_target(self.directory.as_fd(), &name, directory).map_err(failed("make its target"))?;
        let staged = StagedPath {
            path: self.path.join(&name),
            released: false,
        };
        rustix::mount::move_mount(
            tree,
            "",
            &self.directory,
            &name,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(failed("move_mount"))?;
        Ok(staged)
    }
}

/// Clones the very object behind `fd`, with or without what is mounted beneath it, and shuts all of the clone before
/// anybody can see it. Unbindable mounts, the staging areas of all launchers among them, are left out.
fn clone(
    fd: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    recursive: bool,
) -> Result<OwnedFd, (&'static str, Errno)> {
    let mut how = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    how.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = rustix::mount::open_tree(fd, "", how).map_err(|errno| ("open_tree", errno))?;
    // Private before it is attached: a clone of a shared mount would take part in what is mounted beneath its source.
    let shut = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    mount_setattr(
        tree.as_fd(),
        shut | attributes,
        MountAttrFlags::empty(),
        MountPropagationFlags::PRIVATE,
        recursive,
    )
    .map_err(|errno| ("mount_setattr", errno))?;
    Ok(tree)
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = take_away(&self.path);
    }
}

/// Something staged. It is unmounted and removed when this is dropped, which is for when podman has returned.
#[derive(Debug)]
pub struct StagedPath {
    path: PathBuf,
    released: bool,
}

impl StagedPath {
    /// The path for podman.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What dropping does, with the failure told.
    ///
    /// # Errors
    /// [`StagingError::Release`].
    pub fn release(mut self) -> Result<(), StagingError> {
        self.released = true;
        take_away(&self.path).map_err(|(step, errno)| StagingError::Release {
            path: self.path.clone(),
            step,
            errno,
        })
    }
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        if !self.released {
            let _ = take_away(&self.path);
        }
    }
}

fn make_target(area: BorrowedFd<'_>, name: &str, directory: bool) -> rustix::io::Result<()> {
    if directory {
        return rustix::fs::mkdirat(area, name, Mode::RWXU);
    }
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(area, name, new, Mode::RUSR).map(drop)
}

/// The directory that will hold the area, with the path that podman will be given.
fn checked_parent(parent: &Path) -> Result<PathBuf, StagingError> {
    let unfit = |problem: String| StagingError::Parent {
        path: parent.to_owned(),
        problem,
    };
    let path = parent
        .canonicalize()
        .map_err(|error| unfit(error.to_string()))?;
    let stat = rustix::fs::lstat(&path).map_err(|errno| unfit(errno.to_string()))?;
    let shown = path.display();
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(unfit("it is no directory".to_owned()));
    }
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return Err(unfit(format!(
            "others than root may write to it; mend with: chown root {shown} && chmod 0700 {shown}"
        )));
    }
    if path
        .as_os_str()
        .as_bytes()
        .iter()
        .any(|b| matches!(b, b':' | b','))
    {
        return Err(unfit(
            "':' and ',' would end its path in podman's options".to_owned(),
        ));
    }
    Ok(path)
}
