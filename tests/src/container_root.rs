//! The agent that is hardest to keep in: uid 0 in its container, with podman's default capabilities and no user namespace.
//! It may chown, chmod, rename and link whatever it likes in the directories that it has mounted.

use crate::{Host, IMAGE};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory that only root can write, and in it `agent`, which such an agent has mounted at `/state`.
#[derive(Debug)]
pub struct ContainerRoot<'h> {
    host: &'h Host,
    dir: TempDir,
}

impl<'h> ContainerRoot<'h> {
    /// Makes both. `agent` belongs to an ordinary user at first, as an operator would leave it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn new(host: &'h Host) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pct-root-")
            .tempdir_in("/run")
            .expect("a directory beneath /run");
        let this = Self { host, dir };
        fs::create_dir(this.state()).expect("a directory");
        chown(this.state(), Some(42435), Some(42435)).expect("an owner");
        this
    }

    /// The directory around it: the operator's, and nothing of it but `agent` can be seen in the container.
    #[must_use]
    pub fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// What the agent has mounted.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// Makes a directory beside or beneath the agent's.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// Runs a shell script in the agent's container, after everything that it can write has been made root's.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn runs(&self, script: &str) {
        let (volume, script) = (self.volume(), with_chown(script));
        let options = ["run", "--rm", "--network=none", &volume];
        self.host
            .engine()
            .must(&[&options[..], &[IMAGE, "/bin/sh", "-c", &script]].concat());
    }

    /// Starts the agent's container and leaves it running: what is mounted on the host from now on it does not see.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn starts(&self) {
        let volume = self.volume();
        let options = ["run", "--detach", "--name=agent", "--network=none", &volume];
        let engine = self.host.engine();
        engine.must(&[&options[..], &[IMAGE, "/bin/sleep", "1000"]].concat());
    }

    /// [`runs`](Self::runs) in the container that was [started](Self::starts).
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn runs_inside(&self, script: &str) {
        let script = with_chown(script);
        let engine = self.host.engine();
        engine.must(&["exec", "agent", "/bin/sh", "-c", &script]);
    }

    fn volume(&self) -> String {
        format!("--volume={}:/state:rw", self.state().display())
    }
}

fn with_chown(script: &str) -> String {
    format!("set -e; chown -R 0:0 /state; chmod -R go-w /state; cd /state; {script}")
}
