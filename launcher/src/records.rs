//! Launch records: what this launcher has started, or was about to start, so that a later life of it knows.
//!
//! One JSON file per name, on disk before podman runs; and one lock file per name, which is podman's standard input: its
//! flock is held as long as that podman lives, whatever becomes of us. Both directories are root's alone.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the lock of another launcher is believed to be that of one that has just ended.
const MOMENT: Duration = Duration::from_secs(2);
/// The pause between two looks at it.
const LOOK: Duration = Duration::from_millis(5);

/// What is known of one launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The container's name.
    pub name: String,
    /// The rule that allowed it.
    pub rule: String,
    /// The plan's hash.
    pub plan: String,
    /// Drawn anew for each launch; the container's label repeats it, so that nobody else's container passes for this one.
    pub nonce: String,
    /// The image's full ID.
    pub image: String,
    /// The network namespace's name, for people: it may mean another namespace by now.
    #[serde(default)]
    pub netns: Option<String>,
}

/// The directory of records and locks.
#[derive(Debug)]
pub struct Records {
    records: PathBuf,
    locks: PathBuf,
    _alone: OwnedFd,
}

/// A record could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file or directory could not be used.
    #[error("{step} {path}: {error}")]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// Another launcher serves this agent.
    #[error("{0} is locked: another launcher serves this agent already; stop that one first")]
    NotAlone(PathBuf),
    /// A podman of an earlier life still works on the name.
    #[error("a podman that was started earlier still works on {0}")]
    Held(String),
}

impl RecordError {
    fn file<E: Into<io::Error>>(step: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::File {
            step,
            path,
            error: error.into(),
        }
    }
}

/// The lock of one name. Its descriptor becomes podman's standard input.
#[derive(Debug)]
pub struct NameLock {
    file: File,
    path: PathBuf,
}

impl Records {
    /// Opens the state directory, makes what is missing, and locks it against a second launcher.
    ///
    /// # Errors
    /// [`RecordError::NotAlone`] and [`RecordError::File`].
    pub fn open(state_dir: &Path) -> Result<Self, RecordError> {
        let (records, locks) = (state_dir.join("records"), state_dir.join("locks"));
        fs::create_dir_all(state_dir).map_err(RecordError::file("create", state_dir))?;
        for directory in [state_dir, &records, &locks] {
            match rustix::fs::mkdir(directory, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(RecordError::file("create", directory)(errno)),
            }
            rustix::fs::chmod(directory, Mode::RWXU)
                .map_err(RecordError::file("set the mode of", directory))?;
        }
        let path = state_dir.join("lock");
        let alone = open_lock(&path)?;
        // What a launcher that was killed had forked, and is not podman yet, has its lock for a moment more.
        let until = Instant::now() + MOMENT;
        loop {
            match rustix::fs::flock(&alone, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    return Ok(Self {
                        records,
                        locks,
                        _alone: alone,
                    });
                }
                Err(Errno::WOULDBLOCK) if Instant::now() < until => sleep(LOOK),
                Err(Errno::WOULDBLOCK) => return Err(RecordError::NotAlone(path)),
                Err(errno) => return Err(RecordError::file("lock", &path)(errno)),
            }
        }
    }

    /// Every record there is. What cannot be read is named in the second list, and stays.
    ///
    /// # Errors
    /// [`RecordError::File`] when the directory cannot be listed.
    pub fn load(&self) -> Result<(Vec<Record>, Vec<RecordError>), RecordError> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let list = fs::read_dir(&self.records).map_err(RecordError::file("list", &self.records))?;
        for entry in list {
            let path = entry
                .map_err(RecordError::file("list", &self.records))?
                .path();
            if path.extension().is_some_and(|e| e == "new") {
                // The power went between writing and renaming: podman was not run.
                let _ = fs::remove_file(&path);
                continue;
            }
            match fs::read(&path).and_then(|b| Ok(serde_json::from_slice(&b)?)) {
                Ok(record) => good.push(record),
                Err(error) => bad.push(RecordError::file("read", &path)(error)),
            }
        }
        Ok((good, bad))
    }

    /// Whether a podman that an earlier life started is still at work.
    ///
    /// # Errors
    /// [`RecordError::File`] when the directory cannot be listed.
    pub fn any_at_work(&self) -> Result<bool, RecordError> {
        let (records, _) = self.load()?;
        Ok(records
            .iter()
            .any(|record| matches!(self.lock(&record.name), Err(RecordError::Held(_)))))
    }

    /// The record of one name, if there is one.
    ///
    /// # Errors
    /// [`RecordError::File`] when it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Record>, RecordError> {
        let path = self.record_path(name);
        match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RecordError::file("read", &path)(error)),
        }
    }

    /// Takes the lock of a name, without waiting.
    ///
    /// # Errors
    /// [`RecordError::Held`] when a podman has it; [`RecordError::File`].
    pub fn lock(&self, name: &str) -> Result<NameLock, RecordError> {
        let path = self.locks.join(name);
        loop {
            let file = File::from(open_lock(&path)?);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(RecordError::Held(name.to_owned())),
                Err(errno) => return Err(RecordError::file("lock", &path)(errno)),
            }
            // Whoever had it before may have removed the file in between: then this lock is nobody's.
            let mine = file
                .metadata()
                .map_err(RecordError::file("look at", &path))?;
            match fs::metadata(&path) {
                Ok(now) if (now.dev(), now.ino()) == (mine.dev(), mine.ino()) => {
                    return Ok(NameLock { file, path });
                }
                _ => continue,
            }
        }
    }

    /// Puts a record on disk, whole or not at all, before it returns.
    ///
    /// # Errors
    /// [`RecordError::File`], a full disk among them.
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.record_path(&record.name);
        let new = path.with_file_name(format!("{}.new", record.name));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_data()?;
            fs::rename(&new, &path)?;
            File::open(&self.records)?.sync_data()
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&new);
            RecordError::file("write", &path)(error)
        })
    }

    /// Forgets a name whose container is gone. The lock's file goes with it.
    ///
    /// # Errors
    /// [`RecordError::File`].
    pub fn remove(&self, lock: NameLock, name: &str) -> Result<(), RecordError> {
        let path = self.record_path(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(RecordError::file("remove", &path)(error)),
        }
        fs::remove_file(&lock.path).map_err(RecordError::file("remove", &lock.path))
    }

    // A name is at most 128 bytes of [A-Za-z0-9_.-], so it is a file name as it stands.
    fn record_path(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }
}

impl NameLock {
    /// A second descriptor of the same lock, for podman to hold.
    ///
    /// # Errors
    /// When no descriptor is to be had.
    pub fn for_podman(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Notes who holds the lock, for a person who looks.
    pub fn note(&self, pid: u32) {
        let _ = self.file.write_at(format!("podman {pid}\n").as_bytes(), 0);
    }
}

fn open_lock(path: &Path) -> Result<OwnedFd, RecordError> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(RecordError::file("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        Record {
            name: name.to_owned(),
            rule: "r".to_owned(),
            plan: "p".to_owned(),
            nonce: "n".to_owned(),
            image: "i".to_owned(),
            netns: None,
        }
    }

    #[test]
    fn a_second_launcher_of_the_same_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Records::open(dir.path()).unwrap();
        assert!(matches!(
            Records::open(dir.path()),
            Err(RecordError::NotAlone(_))
        ));
        drop(first);
        assert!(Records::open(dir.path()).is_ok());
    }

    #[test]
    fn a_name_is_held_as_long_as_podmans_descriptor_lives() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let lock = records.lock("a").unwrap();
        let podman = lock.for_podman().unwrap();
        drop(lock);
        assert!(matches!(records.lock("a"), Err(RecordError::Held(_))));
        drop(podman);
        // What another test has just forked has it, too, until it is another program.
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(error) = records.lock("a") {
            assert!(matches!(error, RecordError::Held(_)), "{error}");
            assert!(Instant::now() < until, "{error}");
            sleep(LOOK);
        }
    }

    #[test]
    fn records_survive_and_half_written_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.write(&record("a")).unwrap();
        fs::write(dir.path().join("records/b.json.new"), "{").unwrap();
        fs::write(dir.path().join("records/c.json"), "{").unwrap();
        let (good, bad) = records.load().unwrap();
        assert_eq!(good, [record("a")]);
        assert_eq!(bad.len(), 1);
        let lock = records.lock("a").unwrap();
        records.remove(lock, "a").unwrap();
        assert!(records.load().unwrap().0.is_empty());
        assert!(!dir.path().join("locks/a").exists());
    }
}
