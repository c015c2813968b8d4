//! Network namespaces with a name of their own under `/run/netns`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

/// A fresh uuid, lower case.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid")
        .expect("the kernel's uuids")
        .trim()
        .to_owned()
}

/// A namespace `pct-UUID`, removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one.
    ///
    /// # Panics
    /// When `ip netns add` fails.
    #[must_use]
    pub fn new() -> Self {
        Self::named(&format!("pct-{}", uuid()))
    }

    /// Makes one with that name.
    ///
    /// # Panics
    /// When `ip netns add` fails.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let netns = Self { name: name.into() };
        netns.add();
        netns
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The uuid in its name.
    #[must_use]
    pub fn uuid(&self) -> &str {
        self.name.trim_start_matches("pct-")
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Its inode number, which tells namespaces apart.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn inode(&self) -> u64 {
        fs::metadata(self.path()).expect("the namespace").ino()
    }

    /// Deletes it and makes another under the same name.
    pub fn recreate(&self) {
        self.delete();
        self.add();
    }

    /// Deletes it; what runs in it stays there.
    pub fn delete(&self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }

    fn add(&self) {
        let made = Command::new("ip")
            .args(["netns", "add", &self.name])
            .output()
            .expect("iproute2");
        assert!(made.status.success(), "{made:?}");
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.delete();
    }
}
