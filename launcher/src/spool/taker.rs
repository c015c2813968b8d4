//! Takes lines out of one spool: on a thread of its own, since its agent may hold the lock for as long as it likes.
//!
//! Everything that is touched here, but for the journal, the agent can change at any moment. So each place is opened once,
//! without following what the agent could have planted there and without reading or blocking, is judged by its descriptor,
//! and only then opened to be read.

use super::journal::{Journal, Take};
use crate::walk::{WalkError, kind, walk};
use portcullis_policy::Spool;
use portcullis_wire::Reason;
use portcullis_wire::limits::SPOOL;
use rustix::fs::inotify::WatchFlags;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat, inotify};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The most lines that are taken at once.
pub(super) const MOST: usize = 65_536;
/// How much of what is dropped is shown.
pub(super) const SHOWN: usize = 1024;

/// What came of a look at a spool.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// What is in the journal alone by now: what an earlier life began to take, and what is new.
    pub(crate) takes: Vec<Take>,
    /// What was no line, or too much.
    pub(crate) dropped: Vec<Dropped>,
    /// The watch on the directory.
    pub(crate) watch: Option<i32>,
    /// Why there is none.
    pub(crate) unwatched: Option<Errno>,
}

/// What was taken out of the file and is not in the journal.
#[derive(Debug)]
pub(crate) struct Dropped {
    pub(crate) reason: Reason,
    pub(crate) why: String,
    /// How it begins.
    pub(crate) text: String,
}

/// Why nothing could be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// A file or directory of the agent's is not what it has to be.
    #[error("{path} {problem}")]
    Place { path: PathBuf, problem: String },
    /// The journal cannot be read or written.
    #[error(
        "the journal in {path} cannot be {step} ({error}); nothing is taken, and nothing is lost, until it can: has that disk room, and is it sound?"
    )]
    Journal {
        path: PathBuf,
        step: &'static str,
        error: io::Error,
    },
}

fn place(path: &Path, problem: impl Into<String>) -> TakeError {
    let (path, problem) = (path.to_owned(), problem.into());
    TakeError::Place { path, problem }
}

/// One spool, and what a look at it needs.
#[derive(Debug)]
pub(super) struct Taker {
    pub(super) spool: Spool,
    pub(super) journal: Arc<Journal>,
    pub(super) watches: Arc<OnceLock<OwnedFd>>,
    /// The policy has no such spool any more.
    pub(super) ended: Arc<AtomicBool>,
    /// The lock is not waited for any more.
    pub(super) locked: Arc<AtomicBool>,
    /// How many requests have arrived.
    pub(super) arrivals: Arc<AtomicU64>,
    /// What was begun last may not be finished: an earlier life did it, or it failed.
    pub(super) unsure: bool,
}

impl Taker {
    /// Takes what is there. Waits for the lock as long as it is held. What was taken counts beside an error, too; the rest
    /// is still in the file.
    pub(super) fn take(&mut self) -> (Taken, Option<TakeError>) {
        let mut taken = Taken::default();
        let error = self.try_to_take(&mut taken).err();
        self.locked.store(false, Ordering::Relaxed);
        (taken, error)
    }

    fn try_to_take(&mut self, taken: &mut Taken) -> Result<(), TakeError> {
        let dir_path = Path::new(&*self.spool.dir);
        let (dir, owner) = open_dir(dir_path)?;
        // Watched first: what comes after the look below is told.
        match self.watch(&dir) {
            Ok(watch) => taken.watch = Some(watch),
            Err(errno) => taken.unwatched = Some(errno),
        }
        let lock = self.lock()?;
        self.locked.store(true, Ordering::Relaxed);
        // Whoever wrote what is there had the lock before.
        let after = self.arrivals.load(Ordering::Relaxed);
        if !self.ended.load(Ordering::Relaxed) {
            let before = std::mem::replace(&mut self.unsure, true);
            let done = self.take_from(&dir, owner, before, taken);
            for take in &mut taken.takes {
                take.after = after;
            }
            done?;
            self.unsure = false;
        }
        // Closing it lets go of the lock.
        drop(lock);
        Ok(())
    }

    /// Waits for the lock. What was waited for may have been removed meanwhile: then it is nobody's lock any more.
    fn lock(&self) -> Result<OwnedFd, TakeError> {
        let path = Path::new(&*self.spool.lock);
        for _ in 0..8 {
            let lock = open_lock(path)?;
            while let Err(errno) = rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
                if errno != Errno::INTR {
                    return Err(place(path, format!("cannot be locked: {errno}")));
                }
            }
            if identity(&lock, path)? == identity(&open_lock(path)?, path)? {
                return Ok(lock);
            }
        }
        Err(place(path, "is made and removed again all the time"))
    }

    fn watch(&self, dir: &OwnedFd) -> Result<i32, Errno> {
        let watches = self.watches.get().ok_or(Errno::MFILE)?;
        let events = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        inotify::add_watch(watches, itself(dir), events)
    }

    fn take_from(
        &self,
        dir: &OwnedFd,
        owner: u32,
        unsure: bool,
        taken: &mut Taken,
    ) -> Result<(), TakeError> {
        let path = Path::new(&*self.spool.dir).join(Spool::PROCESSES);
        let failed = |step: &'static str| {
            let path = path.clone();
            move |error: io::Error| place(&path, format!("cannot be {step}: {error}"))
        };
        let journal = |step: &'static str| {
            let path = self.journal.path().to_owned();
            move |error: io::Error| TakeError::Journal { path, step, error }
        };
        let mut unfinished = Vec::new();
        if unsure {
            let own = |dir: &str| *dir == *self.spool.dir;
            unfinished = self.journal.unfinished(own).map_err(journal("read"))?;
        }
        let file = open_lines(dir, owner, &path)?;
        let mut bytes = Vec::new();
        let mut size = 0;
        if let Some(file) = &file {
            // To be read alone: whatever is closed after writing is told to whoever watches, to us first of all.
            let reader = reopen(file, OFlags::RDONLY).map_err(failed("opened"))?;
            let reader = File::from(reader);
            (&reader)
                .take(SPOOL)
                .read_to_end(&mut bytes)
                .map_err(failed("read"))?;
            size = reader.metadata().map_err(failed("read"))?.len();
        }
        // Before anything is copied: who has a lease on the file, or runs it, keeps it from being opened for writing, and
        // would have a copy made with each try.
        let writer = match file.filter(|_| !bytes.is_empty()) {
            Some(file) => {
                let writer = reopen(&file, OFlags::WRONLY).map_err(failed("opened for writing"))?;
                Some(File::from(writer))
            }
            None => None,
        };
        let mut rest = bytes.as_slice();
        for take in &unfinished {
            // An earlier life was killed in between. What it has in the journal is taken, wherever else it is.
            if let Some(after) = take.strip_from(rest).map_err(journal("read"))? {
                rest = after;
            }
        }
        let lines = whole_lines(rest);
        let mut new = None;
        if !lines.is_empty() {
            let Spool { command, dir, .. } = &self.spool;
            new = Some(
                self.journal
                    .write(command, dir, lines)
                    .map_err(journal("written"))?,
            );
        }
        if let Some(writer) = writer {
            if let Err(error) = writer.set_len(0) {
                // It is all still there, and one copy for each try would fill the disk.
                if let Some(take) = new {
                    self.journal.withdraw(take).map_err(journal("written"))?;
                }
                return Err(failed("emptied")(error));
            }
            writer.sync_all().map_err(failed("emptied"))?;
        }
        unfinished.extend(new);
        for mut take in unfinished {
            self.journal.finish(&mut take).map_err(journal("written"))?;
            taken.takes.push(take);
        }
        let over = rest.get(lines.len()..).unwrap_or_default();
        taken.dropped.extend(dropped(over, size, bytes.len()));
        Ok(())
    }
}

/// As many whole lines as are taken at once.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
    let end = ends.take(MOST).last().map_or(0, |(at, _)| at + 1);
    bytes.get(..end).unwrap_or_default()
}

/// What is left of a file of this size, of which so many bytes were read.
fn dropped(over: &[u8], size: u64, read: usize) -> Option<Dropped> {
    let unread = size.saturating_sub(read as u64);
    let all = unread.saturating_add(over.len() as u64);
    if all == 0 {
        return None;
    }
    let text = over.get(..over.len().min(SHOWN)).unwrap_or_default();
    let half = unread == 0 && !over.contains(&b'\n');
    let (reason, why) = if half {
        let why = "the last line has no end: whoever wrote it ended in the middle, and was never told that it was done";
        (Reason::Malformed, why.to_owned())
    } else if unread > 0 && (read as u64) < SPOOL {
        let why = format!(
            "{all} bytes were dropped: they were written while lines were taken, by somebody who had no lock"
        );
        (Reason::Malformed, why)
    } else {
        let why = format!(
            "{all} bytes were dropped: at most {SPOOL} bytes and {MOST} lines are taken at once"
        );
        (Reason::TooLarge, why)
    };
    Some(Dropped {
        reason,
        why,
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

/// A path that is that very object.
fn itself(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn reopen(fd: &OwnedFd, how: OFlags) -> io::Result<OwnedFd> {
    let flags = how | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(itself(fd), flags, Mode::empty())?)
}

/// The spool's directory as a mere place, and whose it is.
fn open_dir(path: &Path) -> Result<(OwnedFd, u32), TakeError> {
    let arrived = walk(path).map_err(|error| place(path, unreached(&error)))?;
    match FileType::from_raw_mode(arrived.stat.st_mode) {
        FileType::Directory => Ok((arrived.fd, arrived.stat.st_uid)),
        other => Err(place(
            path,
            format!("is {}, and has to be a directory", kind(other)),
        )),
    }
}

fn unreached(error: &WalkError) -> String {
    match error {
        error if error.is_not_found() => {
            "does not exist: make it, and mount it into the agent, writable".to_owned()
        }
        WalkError::Link { .. } => format!(
            "cannot be reached: {error}; if that link is yours, `portcullis-policy check` says what to write instead"
        ),
        error => format!("cannot be reached: {error}"),
    }
}

/// The lock, made where it is missing: whoever writes the first line has to find the one that is held here.
fn open_lock(path: &Path) -> Result<OwnedFd, TakeError> {
    let at = path.parent().zip(path.file_name());
    let (parent, name) = at.ok_or_else(|| place(path, "has no name"))?;
    let (parent, _) = open_dir(parent)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |how, mode| rustix::fs::openat2(&parent, name, how | OFlags::CLOEXEC, mode, resolve);
    // Whoever puts it there and takes it away again all the time has to be given up some day.
    for _ in 0..8 {
        match open(OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(lock) => {
                judge(&lock, path)?;
                return reopen(&lock, OFlags::RDONLY)
                    .map_err(|error| place(path, format!("cannot be opened: {error}")));
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(place(path, unreached(&errno.into()))),
        }
        match open(OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY, mode()) {
            // Whoever the agent is has to open it, and the umask is the service's.
            Ok(lock) => {
                return rustix::fs::fchmod(&lock, mode())
                    .map(|()| lock)
                    .map_err(|errno| place(path, format!("cannot be made: {errno}")));
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(place(path, format!("cannot be made: {errno}"))),
        }
    }
    Err(place(path, "is made and removed again all the time"))
}

fn mode() -> Mode {
    Mode::from_raw_mode(0o666)
}

/// The file with the lines as a mere place; `None` where there is none.
fn open_lines(dir: &OwnedFd, owner: u32, path: &Path) -> Result<Option<OwnedFd>, TakeError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Nor what somebody has mounted there.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = match rustix::fs::openat2(dir, Spool::PROCESSES, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(place(path, unreached(&errno.into()))),
    };
    let stat = judge(&file, path)?;
    if stat.st_uid != 0 && stat.st_uid != owner {
        let problem = format!(
            "belongs to user {}, neither to root nor to its directory's owner, {owner}: chown one of them, or remove it",
            stat.st_uid
        );
        return Err(place(path, problem));
    }
    Ok(Some(file))
}

fn identity(file: &OwnedFd, path: &Path) -> Result<(u64, u64), TakeError> {
    let stat = rustix::fs::fstat(file);
    stat.map(|stat| (stat.st_dev, stat.st_ino))
        .map_err(|errno| place(path, format!("cannot be looked at: {errno}")))
}

/// A regular file with one name.
fn judge(file: &OwnedFd, path: &Path) -> Result<Stat, TakeError> {
    let stat = rustix::fs::fstat(file)
        .map_err(|errno| place(path, format!("cannot be looked at: {errno}")))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink <= 1 => Ok(stat),
        FileType::RegularFile => Err(place(
            path,
            format!(
                "is a hard link: the file has {} names, and has to have one; remove it",
                stat.st_nlink
            ),
        )),
        other => Err(place(
            path,
            format!(
                "is {}, and has to be a regular file; remove it",
                kind(other)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_taken_and_no_more_than_so_many() {
        assert_eq!(whole_lines(b""), b"");
        assert_eq!(whole_lines(b"a"), b"");
        assert_eq!(whole_lines(b"a\nb"), b"a\n");
        let many = b"\n".repeat(MOST + 2);
        assert_eq!(whole_lines(&many).len(), MOST);
    }

    #[test]
    fn what_is_dropped_is_told_by_what_it_is() {
        assert!(dropped(b"", 10, 10).is_none());
        let half = dropped(b"qdhcp-1 --a", 11, 11).unwrap();
        assert_eq!(half.reason, Reason::Malformed);
        for (over, size) in [(&b"a"[..], 100), (b"", 100)] {
            let unlocked = dropped(over, size, 1).unwrap();
            assert_eq!(unlocked.reason, Reason::Malformed);
            assert!(unlocked.why.contains("no lock"), "{}", unlocked.why);
        }
        let long = dropped(&[b'x'; 2 * SHOWN], 2 * SHOWN as u64, 2 * SHOWN).unwrap();
        assert_eq!(long.text.len(), SHOWN);
        let all = usize::try_from(SPOOL).unwrap();
        for (over, size, read) in [(&b"a\nb"[..], 3, 3), (b"a", SPOOL + 1, all)] {
            let dropped = dropped(over, size, read).unwrap();
            assert_eq!(dropped.reason, Reason::TooLarge);
        }
    }
}
