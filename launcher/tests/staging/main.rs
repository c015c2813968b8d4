//! Attacks on what is staged: namespaces that are none, or the host's; mount sources that lead elsewhere; and swaps of
//! either while they are looked at. Needs root, and `unshare` of util-linux.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod area;
mod netns;
mod sources;

use portcullis_launcher::staging::{Staging, StagingError};
use portcullis_wire::Reason;
use rustix::fs::{CWD, FileType, Mode, mkdirat, mknodat};
use rustix::mount::UnmountFlags;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use tempfile::TempDir;

/// A directory for the operator (`netns`, `state`), the launcher (`run`) and a secret that no agent may reach.
struct Scene {
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            directory: TempDir::new().unwrap(),
        };
        for name in ["netns", "state", "run", "secret"] {
            mkdirat(CWD, scene.path(name), Mode::RWXU).unwrap();
        }
        fs::write(scene.path("secret/key"), "secret").unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn staging(&self) -> Staging {
        Staging::new(&self.path("run")).unwrap()
    }

    fn refusal_of_netns(&self, name: &str) -> StagingError {
        let error = Staging::resolve_netns(&self.path("netns"), name).unwrap_err();
        assert_eq!(error.reason(), Reason::Netns, "{error}");
        error
    }

    fn refusal_of_source(&self, staging: &Staging, rest: &str) -> StagingError {
        let error = staging
            .stage_source(&self.path("state"), Path::new(rest), false)
            .unwrap_err();
        assert_eq!(error.reason(), Reason::Mount, "{error}");
        assert_nothing_is_left_in(staging.path());
        error
    }
}

/// What a thread that swaps and one that is not to be fooled know of each other.
#[derive(Default)]
struct Race {
    swaps: AtomicUsize,
    over: AtomicBool,
}

impl Race {
    /// Attempts while another thread swaps, until there have been 10,000 of both, and returns how many were staged and
    /// what the refusals said.
    fn run(
        &self,
        swap: impl Fn() + Sync,
        attempt: impl Fn() -> Result<(), StagingError>,
    ) -> (usize, BTreeSet<String>) {
        /// Also when an attempt panics, the swapping has to end.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let _over = Over(&self.over);
            let swapper = scope.spawn(|| {
                while !self.over.load(Ordering::Relaxed) {
                    swap();
                }
            });
            let (mut attempts, mut staged, mut refused) = (0, 0, BTreeSet::new());
            while attempts < 10_000 || self.swaps.load(Ordering::Relaxed) < 10_000 {
                assert!(!swapper.is_finished(), "the swapping thread failed");
                attempts += 1;
                match attempt() {
                    Ok(()) => staged += 1,
                    Err(error) => {
                        refused.insert(format!("{:?}: {error}", error.reason()));
                    }
                }
            }
            (staged, refused)
        })
    }

    fn swapped(&self) {
        self.swaps.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for (point, _) in mounts_beneath(self.directory.path()).iter().rev() {
            let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
        }
    }
}

/// Mount points with their options, in the kernel's order.
fn mounts_beneath(path: &Path) -> Vec<(PathBuf, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let fields = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .map(|field| (PathBuf::from(field[4]), field[5..].join(" ")))
        .filter(|(point, _)| point.starts_with(path))
        .collect()
}

fn assert_nothing_is_left_in(area: &Path) {
    let points: Vec<_> = mounts_beneath(area);
    assert!(points.len() <= 1, "{points:?}");
    assert_eq!(fs::read_dir(area).unwrap().count(), 0);
}

/// Makes a namespace of the kind and binds it to a file.
fn namespace(kind: &str, file: &Path) {
    fs::write(file, "").unwrap();
    let option = format!("--{kind}={}", file.display());
    let status = Command::new("unshare").args([&option, "true"]).status();
    assert!(status.unwrap().success());
}

/// Binds a user namespace, which `unshare` cannot do, to a file.
fn user_namespace(file: &Path) {
    let mut unshared = Command::new("unshare")
        .args(["--user", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let namespace = PathBuf::from(format!("/proc/{}/ns/user", unshared.id()));
    let ours = fs::metadata("/proc/self/ns/user").unwrap().ino();
    while fs::metadata(&namespace).unwrap().ino() == ours {
        thread::yield_now();
    }
    bind(namespace, file);
    drop(unshared.stdin.take());
    assert!(unshared.wait().unwrap().success());
}

fn bind(from: impl AsRef<Path>, to: &Path) {
    fs::write(to, "").unwrap();
    rustix::mount::mount_bind(from.as_ref(), to).unwrap();
}

fn special(path: &Path, kind: FileType) {
    // Device 1:5 is /dev/zero.
    let device = rustix::fs::makedev(1, 5);
    mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device).unwrap();
}
