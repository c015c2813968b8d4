//! A spool: the directory of one command into which a launch is written as a line, for the launcher on the host to take.
//!
//! Everything happens under the lock, and whatever may be refused is opened before anything is written: a launch that
//! fails leaves the file as it was. Others may write there: no link is followed, nothing but a regular file is used, and
//! nothing is waited for but the lock.

use crate::line;
use crate::spool_error::{Failure, SpoolError, failed};
use portcullis_wire::Launch;
use portcullis_wire::limits::SPOOL;
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, fchmod,
    flock, fstat, fsync, futimens, open, openat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Where the spools are, each under its command's name: the operator mounts them there.
const SPOOLS: &str = "/var/lib/portcullis/spool";
/// The file of lines.
const PROCESSES: &str = "processes";
/// The file whose modification tells the host of new lines.
const TIMESTAMP: &str = "processes-timestamp";
/// The lock, where no other is named.
const LOCK: &str = "lock";
/// How long the lock is waited for, at most: as long as the scripts in the field do.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a launch is written to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spool {
    dir: PathBuf,
    lock: PathBuf,
    legacy: bool,
}

impl Spool {
    /// In that directory, with a lock there.
    pub(crate) fn new(dir: PathBuf) -> Self {
        let lock = dir.join(LOCK);
        let legacy = false;
        Self { dir, lock, legacy }
    }

    /// A command's own; none for what cannot be a directory's name.
    pub(crate) fn of(command: &str) -> Option<Self> {
        let is_name = !matches!(command, "" | "." | "..") && !command.contains('/');
        is_name.then(|| Self::new(Path::new(SPOOLS).join(command)))
    }

    /// With another lock, and for the host scripts of before Portcullis.
    pub(crate) fn with(self, lock: Option<PathBuf>, legacy: bool) -> Self {
        Self {
            lock: lock.unwrap_or(self.lock),
            dir: self.dir,
            legacy,
        }
    }

    /// The file of lines.
    pub(crate) fn processes(&self) -> PathBuf {
        self.dir.join(PROCESSES)
    }

    /// Writes a launch. When this returns, line and timestamp are on the disk; after an error the line is not in the file,
    /// unless the error says that it is. The lock is waited for as long as `patience`, but never longer than 10 s.
    pub(crate) fn write(&self, launch: &Launch, patience: Duration) -> Result<(), SpoolError> {
        let dir = self.open()?;
        let mut line = line::of(launch, self.legacy)?;
        line.push('\n');
        let _lock = self.lock(patience.min(PATIENCE))?;
        let (processes, made) = self.file(&dir, PROCESSES, OFlags::RDWR | OFlags::APPEND)?;
        if !self.legacy {
            self.check_owner(&dir, &processes, made)?;
        }
        let (timestamp, also) = self.file(&dir, TIMESTAMP, OFlags::WRONLY)?;
        if made || also {
            fsync(&dir).map_err(failed("sync", &self.dir))?;
        }
        let length = self.cut(&processes)?;
        if length + line.len() as u64 > SPOOL {
            let path = self.processes();
            return Err(SpoolError::Full { path, length });
        }
        self.add(&processes, &timestamp, line.as_bytes(), length)
    }

    /// Appends the line to the file, which is so long, or leaves that as it is.
    fn add(
        &self,
        processes: &File,
        timestamp: &File,
        line: &[u8],
        length: u64,
    ) -> Result<(), SpoolError> {
        let appended = self.append(processes, timestamp, line);
        appended.map_err(|failure| match take_back(processes, length) {
            Ok(()) => failure.into(),
            Err(back) => SpoolError::NotTakenBack { failure, back },
        })
    }

    fn open(&self) -> Result<OwnedFd, SpoolError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&self.dir, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => SpoolError::Missing(self.dir.clone()),
            errno => failed("open", &self.dir)(errno).into(),
        })
    }

    /// Takes the lock, which is let go of when what is returned is dropped. What was waited for may have been removed
    /// meanwhile: then it is nobody's lock any more.
    fn lock(&self, patience: Duration) -> Result<File, SpoolError> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let file = self.lock_once(left, patience)?;
            let mine = fstat(&file).map_err(failed("look at", &self.lock))?;
            match statat(CWD, &self.lock, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(now) if (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino) => {
                    return Ok(file);
                }
                _ if left.is_zero() => return Err(self.held(patience)),
                _ => {}
            }
        }
    }

    fn held(&self, waited: Duration) -> SpoolError {
        let path = self.lock.clone();
        SpoolError::Held { path, waited }
    }

    /// Takes what the lock is now, where it is to be had in the time that is left of all the patience.
    fn lock_once(&self, left: Duration, patience: Duration) -> Result<File, SpoolError> {
        // Whoever may read a file may lock it, so that it need not be writable.
        let (file, made) = regular(CWD, &self.lock, &self.lock, OFlags::RDONLY, 0o666)?;
        if made {
            // Scripts open it for writing, and may be another user's: the umask does not count.
            let mode = Mode::from_raw_mode(0o666);
            fchmod(&file, mode).map_err(failed("make", &self.lock))?;
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(failed("lock", &self.lock)(errno).into()),
        }
        // Those who wait in the kernel are woken when it is let go of; one who asks again and again would starve beside
        // them. Such a wait cannot be called off: its thread ends with the program, and a lock that comes too late is let
        // go of at once.
        let (sender, receiver) = mpsc::channel();
        let wait = move || {
            let locked = retry_on_intr(|| flock(&file, FlockOperation::LockExclusive));
            let _ = sender.send(locked.map(|()| file));
        };
        let thread = thread::Builder::new().spawn(wait);
        thread.map_err(failed("wait for", &self.lock))?;
        match receiver.recv_timeout(left) {
            Ok(locked) => Ok(locked.map_err(failed("lock", &self.lock))?),
            Err(_) => Err(self.held(patience)),
        }
    }

    /// Opens one of the two files beneath the directory, and says whether it was made.
    fn file(&self, dir: &OwnedFd, name: &str, flags: OFlags) -> Result<(File, bool), SpoolError> {
        regular(
            dir.as_fd(),
            Path::new(name),
            &self.dir.join(name),
            flags,
            0o644,
        )
    }

    /// Whether the launcher takes lines from a file of that owner's. One that was made, and that it would not take, is removed.
    fn check_owner(&self, dir: &OwnedFd, processes: &File, made: bool) -> Result<(), SpoolError> {
        let path = self.processes();
        let owner = fstat(processes).map_err(failed("look at", &path))?.st_uid;
        let of_dir = fstat(dir).map_err(failed("look at", &self.dir))?.st_uid;
        if owner == 0 || owner == of_dir {
            return Ok(());
        }
        if made {
            unlinkat(dir, PROCESSES, AtFlags::empty()).map_err(failed("remove", &path))?;
        }
        Err(SpoolError::Owner {
            path,
            owner,
            of_dir,
        })
    }

    /// Removes a line without an end: its writer did not live to finish it, and told nobody of it. With a newline it would
    /// be a line, and might be started. Gives the length of what is left.
    fn cut(&self, processes: &File) -> Result<u64, Failure> {
        let path = self.processes();
        let length = processes
            .metadata()
            .map_err(failed("look at", &path))?
            .len();
        let whole = whole_lines(processes, length).map_err(failed("read", &path))?;
        if whole < length {
            processes
                .set_len(whole)
                .map_err(failed("truncate", &path))?;
        }
        Ok(whole)
    }

    /// Appends the line, and then tells the host, both as far as the disk.
    fn append(&self, mut processes: &File, timestamp: &File, line: &[u8]) -> Result<(), Failure> {
        let path = self.processes();
        let written = processes.write(line).map_err(failed("write", &path))?;
        if written < line.len() {
            let short = io::Error::new(io::ErrorKind::WriteZero, "only a part of the line fits");
            return Err(failed("write", &path)(short));
        }
        processes.sync_data().map_err(failed("sync", &path))?;
        let path = self.dir.join(TIMESTAMP);
        // Now, twice: a time of ours would take the file's owner. This needs no room on the disk, as writing would. What
        // watches the file sees this, and that it is closed after having been opened for writing.
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        futimens(timestamp, &times).map_err(failed("touch", &path))?;
        timestamp.sync_all().map_err(failed("sync", &path))
    }
}

/// Opens a regular file, or makes it, and says whether it was made. `path` is what it is called.
fn regular(
    dir: BorrowedFd<'_>,
    name: &Path,
    path: &Path,
    flags: OFlags,
    mode: u32,
) -> Result<(File, bool), SpoolError> {
    // A FIFO would be waited for.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let there = || openat(dir, name, flags, Mode::empty());
    let make = || {
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        openat(dir, name, flags, Mode::from_raw_mode(mode))
    };
    // Not in one call: for a file of another user in a directory as /run/lock, the kernel refuses to open what it might
    // have to make (fs.protected_regular).
    let (opened, made) = match there() {
        Err(Errno::NOENT) => match make() {
            // Somebody else was quicker.
            Err(Errno::EXIST) => (there(), false),
            opened => (opened, true),
        },
        opened => (opened, false),
    };
    let stat = match &opened {
        Ok(file) => fstat(file),
        // Why it was refused is mostly what it is.
        Err(_) => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW),
    };
    if let Some(what) = stat.ok().and_then(|stat| other_than_regular(stat.st_mode)) {
        let path = path.to_owned();
        return Err(SpoolError::NotRegular { path, what });
    }
    let what = if made { "make" } else { "open" };
    Ok((opened.map_err(failed(what, path))?.into(), made))
}

fn other_than_regular(mode: u32) -> Option<&'static str> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => None,
        FileType::Symlink => Some("a symbolic link"),
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        _ => Some("a device"),
    }
}

/// How long the file is up to its last newline, that one counted.
fn whole_lines(file: &File, length: u64) -> io::Result<u64> {
    let mut buffer = [0; 4096];
    let mut end = length;
    while end > 0 {
        // What is left of the file before `end`, where that is less: never more than the buffer.
        let begin = end.saturating_sub(buffer.len() as u64);
        let piece = usize::try_from(end - begin).ok();
        let piece = piece
            .and_then(|length| buffer.get_mut(..length))
            .unwrap_or_default();
        file.read_exact_at(piece, begin)?;
        if let Some(at) = piece.iter().rposition(|b| *b == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// Makes the file what it was, as far as the disk.
fn take_back(processes: &File, length: u64) -> io::Result<()> {
    processes.set_len(length)?;
    // That the disk has it is not worth a word where the disk has just failed.
    let _ = processes.sync_data();
    Ok(())
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
