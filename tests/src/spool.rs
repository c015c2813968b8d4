//! A spool: the directory in which an agent leaves lines for its launcher, and how wrappers write to it.

use crate::agent::binary;
use crate::{Agent, Host, holds};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How many lines each of a storm's writers writes: what `PORTCULLIS_LINES` says. By hand it says what the project
/// promises, 200; what every run does is a few.
///
/// # Panics
/// When it says something that is no number.
#[must_use]
pub fn storm_lines(otherwise: usize) -> usize {
    let text = std::env::var("PORTCULLIS_LINES");
    text.map_or(otherwise, |text| {
        text.parse().expect("PORTCULLIS_LINES is a number")
    })
}

/// How long a storm's writer may wait for the lock. What the project promises is a second, on a machine that does nothing
/// else: that is asked of a run by hand. Of every other it is that no wrapper of the field's gives up.
#[must_use]
pub fn storm_patience() -> Duration {
    let is_by_hand = std::env::var_os("PORTCULLIS_LINES").is_some();
    Duration::from_secs(if is_by_hand { 1 } else { 10 })
}

/// How long the longest wait for that lock is, for one who asks for it every 5 ms as writers do, until the flag is set.
///
/// # Panics
/// When the lock is there and cannot be taken.
#[must_use]
pub fn longest_wait(lock: &Path, end: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !end.load(Relaxed) {
        let begin = Instant::now();
        // It is the first writer who makes it.
        if let Ok(lock) = File::open(lock) {
            flock(&lock, FlockOperation::LockExclusive).expect("the lock");
            drop(lock);
            longest = longest.max(begin.elapsed());
        }
        sleep(Duration::from_millis(5));
    }
    longest
}

/// The spool of one command.
#[derive(Clone, Debug)]
pub struct Spool {
    command: String,
    dir: PathBuf,
    lock: Option<PathBuf>,
}

impl Spool {
    /// Makes a directory of this host's for that command, with nothing in it.
    ///
    /// # Panics
    /// When it is there.
    #[must_use]
    pub fn new(host: &Host, command: &str) -> Self {
        let parent = host.path().join("spool");
        fs::create_dir_all(&parent).expect("a directory");
        let spool = Self::at(command, &parent.join(command));
        fs::create_dir(&spool.dir).expect("a directory");
        spool
    }

    /// The one in that directory.
    #[must_use]
    pub fn at(command: &str, dir: &Path) -> Self {
        Self {
            command: command.into(),
            dir: dir.into(),
            lock: None,
        }
    }

    /// With its lock in another place than its directory.
    #[must_use]
    pub fn with_lock(mut self, lock: &Path) -> Self {
        self.lock = Some(lock.into());
        self
    }

    /// The policy's table for it.
    #[must_use]
    pub fn table(&self) -> String {
        let Self { command, dir, lock } = self;
        let lock = lock.as_ref().map(|lock| format!("lock = {lock:?}\n"));
        let lock = lock.unwrap_or_default();
        format!("\n[[spool]]\ncommand = {command:?}\ndir = {dir:?}\n{lock}")
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that has the lines.
    #[must_use]
    pub fn processes(&self) -> PathBuf {
        self.dir.join("processes")
    }

    /// The file whose modification is the signal.
    #[must_use]
    pub fn timestamp(&self) -> PathBuf {
        self.dir.join("processes-timestamp")
    }

    /// The file that writers and readers lock.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        let inside = || self.dir.join("lock");
        self.lock.clone().unwrap_or_else(inside)
    }

    /// Takes the lock; it is let go when the file is dropped.
    ///
    /// # Panics
    /// When the lock cannot be opened.
    #[must_use]
    pub fn hold(&self) -> File {
        let mut options = OpenOptions::new();
        let lock = options.create(true).append(true).open(self.lock());
        let lock = lock.expect("the lock");
        flock(&lock, FlockOperation::LockExclusive).expect("the lock");
        lock
    }

    /// Appends bytes under the lock, and gives no signal.
    pub fn append(&self, bytes: &[u8]) {
        let _lock = self.hold();
        self.append_unlocked(bytes);
    }

    /// [`append`](Self::append) by one who does not ask for the lock.
    ///
    /// # Panics
    /// When that fails.
    pub fn append_unlocked(&self, bytes: &[u8]) {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(self.processes());
        file.and_then(|mut file| file.write_all(bytes))
            .expect("an appended line");
    }

    /// [`append`](Self::append) to a file that is there, by another name outside the directory, which is gone afterwards:
    /// who watches the directory is told nothing of it.
    ///
    /// # Panics
    /// When that fails.
    pub fn append_unseen(&self, bytes: &[u8]) {
        let _lock = self.hold();
        let name = self.dir.with_extension("unseen");
        fs::hard_link(self.processes(), &name).expect("another name");
        let file = OpenOptions::new().append(true).open(&name);
        file.and_then(|mut file| file.write_all(bytes))
            .expect("an appended line");
        fs::remove_file(name).expect("the name goes");
    }

    /// Gives the signal: rewrites the timestamp.
    ///
    /// # Panics
    /// When that fails.
    pub fn touch(&self) {
        fs::write(self.timestamp(), "now\n").expect("the timestamp");
    }

    /// Appends a line and gives the signal, as wrappers do.
    pub fn write(&self, line: &str) {
        self.append(format!("{line}\n").as_bytes());
        self.touch();
    }

    /// What is in the file of lines now; nothing where there is none.
    #[must_use]
    pub fn content(&self) -> String {
        let bytes = fs::read(self.processes()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The real client, told to write into this spool, up to its own options and the command.
    #[must_use]
    pub fn client(&self) -> Command {
        let mut client = Command::new(binary("portcullis"));
        client.arg("run").arg("--spool").arg(&self.dir);
        client.arg("--lock").arg(self.lock());
        client
    }

    /// Waits until all that was written has been taken, and each line's outcome is known.
    #[track_caller]
    pub fn wait_until_done(&self, agent: &Agent) {
        holds("every line is taken and done with", || {
            self.content().is_empty() && agent.journal() == 0
        });
    }
}
