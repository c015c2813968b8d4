//! A host of a test's own: directories, a podman, agents.

use crate::{Agent, Engine};
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Everything that one test has, removed on drop.
#[derive(Debug)]
pub struct Host {
    // The order of the fields is the order of their removal.
    engine: Engine,
    _mounts: Mounts,
    dir: TempDir,
}

/// What is mounted beneath a directory: podman's store, and what a killed launcher staged. Unmounted on drop.
#[derive(Debug)]
struct Mounts(PathBuf);

impl Drop for Mounts {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mount in mounts.lines().rev() {
            if let Some(point) = mount.split(' ').nth(4)
                && Path::new(point).starts_with(&self.0)
            {
                let _ = unmount(point, UnmountFlags::DETACH);
            }
        }
    }
}

impl Host {
    /// Makes one.
    ///
    /// # Panics
    /// When not root, or without podman.
    #[must_use]
    pub fn new() -> Self {
        Self::beneath(&std::env::temp_dir())
    }

    /// Makes one beneath that directory.
    ///
    /// # Panics
    /// When not root, or without podman.
    #[must_use]
    pub fn beneath(parent: &Path) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the tests need root");
        let dir = tempfile::Builder::new()
            .prefix("pct-")
            .tempdir_in(parent)
            .expect("a temporary directory");
        for name in ["etc/agents", "run", "private", "state", "log", "shared"] {
            fs::create_dir_all(dir.path().join(name)).expect("a directory");
        }
        let engine = Engine::new(&dir.path().join("engine"), &image("busybox"));
        Self {
            engine,
            _mounts: Mounts(dir.path().to_owned()),
            dir,
        }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A directory that agents of this host write to: the `{shared}` of [`Agent`]'s policies.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    /// Its podman.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// An agent with those launch rules: the policy's head (version, peer, vars) is put before them.
    #[must_use]
    pub fn agent(&self, name: &str, rules: &str) -> Agent<'_> {
        let head = format!(
            "version = 1\n[peer]\nuid = [0]\n[vars]\nshared = \"{}\"\n",
            self.shared().display()
        );
        self.agent_with_policy(name, &(head + rules))
    }

    /// An agent with that policy, whole.
    #[must_use]
    pub fn agent_with_policy(&self, name: &str, policy: &str) -> Agent<'_> {
        Agent::new(self, name, policy)
    }

    /// The root file system of [`IMAGE`](crate::IMAGE), as a tar file.
    #[must_use]
    pub fn image_file(&self) -> PathBuf {
        image("busybox")
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// The root file system of one of `images/make.sh`'s images, made on first use.
pub(crate) fn image(name: &str) -> PathBuf {
    static SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/make.sh");
    let made = Command::new(SCRIPT).arg(name).output();
    let made = made.expect("images/make.sh");
    assert!(made.status.success(), "{made:?}");
    let path = String::from_utf8(made.stdout).expect("UTF-8");
    path.trim_end().into()
}
