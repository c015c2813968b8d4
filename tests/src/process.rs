//! A process as `/proc` shows it.

use crate::holds;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

/// One process, known by number and start time: a recycled number is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    started: u64,
}

impl Process {
    /// The process with that number, if there is one that is not a zombie.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (state != 'Z').then_some(Self { pid, started })
    }

    /// A child that was not waited for yet, so that the number is its own even if it has ended.
    ///
    /// # Panics
    /// When it was waited for.
    #[must_use]
    pub fn of(child: &Child) -> Self {
        let pid = i32::try_from(child.id()).expect("a pid");
        let (_, started) = stat(pid).expect("a child that was not waited for");
        Self { pid, started }
    }

    /// Whether any process has that path in its command line.
    #[must_use]
    pub fn mentioning(path: &Path) -> bool {
        let path = path.display().to_string();
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        numbers
            .filter_map(|entry| Self::find(entry.file_name().to_str()?.parse().ok()?))
            .any(|process| process.arguments().iter().any(|a| a.contains(&path)))
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Waits until it runs its program, or has ended: engines say that a container runs as soon as its process is on the
    /// way there from the OCI runtime, whose command line, descriptors and signal handlers it has until then.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn in_its_program(self) -> Self {
        holds("a container's process runs its program", || {
            let exe = fs::read_link(self.file("exe")).unwrap_or_default();
            let exe = exe.to_string_lossy();
            let is_there = !exe.is_empty() && !exe.contains("runc") && !exe.contains("crun");
            // The kernel says what it executes a moment before it has its arguments.
            (is_there && !self.arguments().is_empty()) || !self.is_alive()
        });
        self
    }

    /// Waits until its program has a handler for that signal. Without one it would die of it, or, as the first of its
    /// PID namespace, not even get it.
    ///
    /// # Panics
    /// When it sets none.
    #[must_use]
    #[track_caller]
    pub fn that_handles(self, signal: Signal) -> Self {
        let process = self.in_its_program();
        holds("a process handles a signal", || {
            process.mask("SigCgt") & (1 << (signal.as_raw() - 1)) != 0
        });
        process
    }

    /// Sends a signal; a process that is gone is no error.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            let pid = Pid::from_raw(self.pid).expect("a pid is not 0");
            let _ = kill_process(pid, signal);
        }
    }

    /// A file of its directory under `/proc`.
    #[must_use]
    pub fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// Its `/proc/PID/status`, by key.
    #[must_use]
    pub fn status(self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.file("status")).expect("the process's status");
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect()
    }

    /// A set of capabilities from its status: `CapEff`, `CapBnd` and so on.
    #[must_use]
    pub fn capabilities(self, set: &str) -> u64 {
        self.mask(set)
    }

    fn mask(self, key: &str) -> u64 {
        let status = self.status();
        let text = status.get(key).expect("such a mask");
        u64::from_str_radix(text, 16).expect("a hexadecimal mask")
    }

    /// Its environment.
    #[must_use]
    pub fn environment(self) -> Vec<String> {
        words(&fs::read(self.file("environ")).expect("the process's environment"))
    }

    /// Its command line.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        words(&fs::read(self.file("cmdline")).unwrap_or_default())
    }

    /// Its open descriptors and what they are.
    #[must_use]
    pub fn descriptors(self) -> BTreeMap<i32, String> {
        let Ok(entries) = fs::read_dir(self.file("fd")) else {
            return BTreeMap::new();
        };
        entries
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                Some((number, target.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// The children of any of its threads.
    #[must_use]
    pub fn children(self) -> Vec<Self> {
        let Ok(threads) = fs::read_dir(self.file("task")) else {
            return Vec::new();
        };
        threads
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
            .flat_map(|text| {
                text.split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .filter_map(Self::find)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn resident(self) -> u64 {
        let status = self.status();
        let text = status.get("VmRSS").expect("VmRSS");
        let kib: u64 = text.trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }
}

fn words(bytes: &[u8]) -> Vec<String> {
    let mut words: Vec<_> = bytes
        .split(|b| *b == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    words.pop(); // what follows the last NUL
    words
}

/// State and start time from `/proc/PID/stat`, whose second field may have anything in it.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let mut state = fields.next()?.chars().next()?;
    let threads: u32 = fields.nth(16)?.parse().ok()?;
    if state == 'Z' && threads > 1 {
        // Its first thread alone has ended: another one is in the middle of an exec, as runc's are.
        state = 'R';
    }
    Some((state, fields.nth(1)?.parse().ok()?))
}
