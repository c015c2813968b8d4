//! The journal: what was taken from spools and is not over yet, where no agent can reach it.
//!
//! A file for each take, root's alone: a line of JSON that says of which spool, and then the lines as they were, each with
//! a byte before it that says whether it is over. On the way there it has two other names, so that a launcher which was
//! killed knows how far it came: `NUMBER.new` is not whole; `NUMBER.taking` is, and may still be in the agent's file, too.

use rustix::fs::Mode;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What stands before a line that waits, and before one that is over.
const WAITS: u8 = b'-';
const OVER: u8 = b'x';

/// Of which spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    command: String,
    dir: String,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    next: AtomicU64,
}

/// What was taken at once from a spool.
#[derive(Debug)]
pub(crate) struct Take {
    /// Numbers grow with time.
    pub(crate) number: u64,
    /// The spool's command.
    pub(crate) command: Arc<str>,
    /// The spool's directory, as the policy has it.
    pub(crate) dir: Arc<str>,
    /// So many requests had arrived when all of its lines had been written.
    pub(crate) after: u64,
    /// How many bytes it has.
    pub(crate) size: u64,
    path: PathBuf,
    /// Where each line begins, the byte before it not counted, and how long it is.
    lines: Vec<(u64, u32)>,
    waiting: Vec<u32>,
    left: usize,
}

impl Journal {
    /// Opens it, and makes it where it is missing. What is not whole is removed: it is still where it came from.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("spool");
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        rustix::fs::chmod(&path, Mode::RWXU)?;
        let journal = Self {
            path,
            next: AtomicU64::new(1),
        };
        for (number, name) in journal.names()? {
            journal.next.fetch_max(number + 1, Ordering::Relaxed);
            if name.ends_with(".new") {
                fs::remove_file(journal.path.join(name))?;
            }
        }
        Ok(journal)
    }

    /// Where it is, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files, by number. Others than its own are left alone.
    fn names(&self) -> io::Result<Vec<(u64, String)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            let digits = name.strip_suffix(".new").or(name.strip_suffix(".taking"));
            if let Ok(number) = digits.unwrap_or(&name).parse() {
                names.push((number, name));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What waits in it, and is in no agent's file any more.
    ///
    /// # Errors
    /// What the file system says, and [`io::ErrorKind::InvalidData`] for what is no take; these stay.
    pub(crate) fn load(&self) -> io::Result<Vec<io::Result<Take>>> {
        let names = self.names()?.into_iter();
        let whole = names.filter(|(number, name)| *name == number.to_string());
        Ok(whole
            .map(|(number, name)| Take::read(number, self.path.join(name)))
            .collect())
    }

    /// What may still be in a spool's file, too: of the given spool, or of none of the given ones.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn unfinished(&self, chosen: impl Fn(&str) -> bool) -> io::Result<Vec<Take>> {
        let mut takes = Vec::new();
        for (number, name) in self.names()? {
            if name.ends_with(".taking") {
                match Take::read(number, self.path.join(name)) {
                    Ok(take) if chosen(&take.dir) => takes.push(take),
                    // Another spool's, finished meanwhile, or unreadable: nobody's lines have to wait for that.
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        tracing::error!(%error, "a part of the journal cannot be read, and stays");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(takes)
    }

    /// Puts whole lines, each with its end, on disk before it returns; they are still where they came from.
    ///
    /// # Errors
    /// What the file system says, a full one among it. Nothing is left then.
    pub(crate) fn write(&self, command: &str, dir: &str, lines: &[u8]) -> io::Result<Take> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let new = self.path.join(format!("{number}.new"));
        let head = Head {
            command: command.to_owned(),
            dir: dir.to_owned(),
        };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            bytes.push(WAITS);
            bytes.extend_from_slice(line);
        }
        let write = || -> io::Result<Take> {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            let taking = self.path.join(format!("{number}.taking"));
            fs::rename(&new, &taking)?;
            self.sync()?;
            Take::of(number, taking, &bytes)
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }

    /// Removes a take that is still where it came from.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn withdraw(&self, take: Take) -> io::Result<()> {
        fs::remove_file(take.path)
    }

    /// Takes note that a take is in the journal alone. It is not waited for that the disk has this: the agent's file is
    /// empty there, so that nothing would be found in it.
    ///
    /// # Errors
    /// What the file system says; the take is then still what it was.
    pub(crate) fn finish(&self, take: &mut Take) -> io::Result<()> {
        let path = self.path.join(take.number.to_string());
        fs::rename(&take.path, &path)?;
        take.path = path;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_data()
    }
}

impl Take {
    fn read(number: u64, path: PathBuf) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::open(&path)?.read_to_end(&mut bytes)?;
        Self::of(number, path, &bytes)
    }

    fn of(number: u64, path: PathBuf, bytes: &[u8]) -> io::Result<Self> {
        let bad = || {
            let text = format!("{} is no part of a journal", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let mut parts = bytes.split_inclusive(|byte| *byte == b'\n');
        let head = parts.next().ok_or_else(bad)?;
        let mut at = head.len();
        let Head { command, dir } = serde_json::from_slice(head).map_err(|_| bad())?;
        let (mut lines, mut waiting) = (Vec::new(), Vec::new());
        for part in parts {
            let (mark, line) = part.split_first().ok_or_else(bad)?;
            let line = line.strip_suffix(b"\n").ok_or_else(bad)?;
            if *mark == WAITS {
                waiting.push(u32::try_from(lines.len()).map_err(|_| bad())?);
            }
            lines.push((at as u64 + 1, u32::try_from(line.len()).map_err(|_| bad())?));
            at += part.len();
        }
        Ok(Self {
            number,
            command: command.into(),
            dir: dir.into(),
            left: waiting.len(),
            after: 0,
            size: at as u64,
            path,
            lines,
            waiting,
        })
    }

    /// The lines that are not over, by their places.
    pub(crate) fn waiting(&self) -> &[u32] {
        &self.waiting
    }

    /// How long a line is in bytes, its end not counted.
    pub(crate) fn length(&self, at: u32) -> usize {
        self.line(at).map_or(0, |(_, length)| length as usize)
    }

    /// A line's text, without its end; at most so many bytes of it.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn text(&self, at: u32, most: usize) -> io::Result<Vec<u8>> {
        let (offset, _) = self.line(at)?;
        let mut text = vec![0; self.length(at).min(most)];
        File::open(&self.path)?.read_exact_at(&mut text, offset)?;
        Ok(text)
    }

    /// Whether these bytes begin with the lines of this take; if so, what follows them.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn strip_from<'a>(&self, bytes: &'a [u8]) -> io::Result<Option<&'a [u8]>> {
        let own = fs::read(&self.path)?;
        // The head is none of them, and the byte before each is not the agent's.
        let mut lines = own.split_inclusive(|byte| *byte == b'\n').skip(1);
        Ok(lines.try_fold(bytes, |rest, line| rest.strip_prefix(line.get(1..)?)))
    }

    /// Takes note that a line is over; when all are, the file is removed. It is not waited for that a disk has this: after
    /// a power failure a line may be taken up again, whose container has gone with the power.
    ///
    /// # Errors
    /// What the file system says. After a restart the line is then taken up once more.
    pub(crate) fn over(&mut self, at: u32) -> io::Result<()> {
        let (offset, _) = self.line(at)?;
        self.left = self.left.saturating_sub(1);
        if self.is_over() {
            return fs::remove_file(&self.path);
        }
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all_at(&[OVER], offset - 1)
    }

    /// Whether all of its lines are over.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }

    fn line(&self, at: u32) -> io::Result<(u64, u32)> {
        let line = self.lines.get(at as usize).copied();
        line.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such line"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        (dir, journal)
    }

    fn write(journal: &Journal, lines: &[u8]) -> Take {
        journal.write("dnsmasq", "/d", lines).unwrap()
    }

    fn texts(take: &Take) -> Vec<Vec<u8>> {
        let text = |at: &u32| take.text(*at, 100).unwrap();
        take.waiting().iter().map(text).collect()
    }

    #[test]
    fn what_waits_is_there_again_after_a_restart_and_what_is_over_is_not() {
        let (dir, journal) = journal();
        let mut take = write(&journal, b"a\n\nc\xff d\n");
        assert!(journal.load().unwrap().is_empty(), "not yet in it alone");
        journal.finish(&mut take).unwrap();
        take.over(0).unwrap();
        assert!(!take.is_over());

        let journal = Journal::open(dir.path()).unwrap();
        let mut takes = journal.load().unwrap();
        let mut again = takes.pop().unwrap().unwrap();
        assert_eq!(texts(&again), [b"".to_vec(), b"c\xff d".to_vec()]);
        assert_eq!(
            (again.number, &*again.command, &*again.dir),
            (1, "dnsmasq", "/d")
        );
        again.over(2).unwrap();
        assert!(!again.is_over());
        again.over(1).unwrap();
        assert!(again.is_over());
        assert!(
            Journal::open(dir.path())
                .unwrap()
                .load()
                .unwrap()
                .is_empty()
        );
        assert_eq!(fs::read_dir(journal.path()).unwrap().count(), 0);
    }

    #[test]
    fn numbers_go_on_after_a_restart_and_what_is_not_whole_is_removed() {
        let (dir, journal) = journal();
        write(&journal, b"a\n");
        fs::write(journal.path().join("7.new"), "{").unwrap();
        fs::write(journal.path().join("readme"), "").unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(write(&journal, b"b\n").number, 8);
        assert!(!journal.path().join("7.new").exists());
        assert!(journal.path().join("readme").exists());
    }

    #[test]
    fn a_take_is_found_at_the_beginning_of_the_file_it_came_from() {
        let (_dir, journal) = journal();
        let take = write(&journal, b"a b\nc\n");
        let rest = |bytes: &'static [u8]| take.strip_from(bytes).unwrap();
        assert_eq!(rest(b"a b\nc\n"), Some(&b""[..]));
        assert_eq!(rest(b"a b\nc\nd"), Some(&b"d"[..]));
        assert_eq!(rest(b"a b\nc"), None);
        assert_eq!(rest(b"a b\ncd\n"), None);
        assert_eq!(rest(b""), None);
        assert_eq!(journal.unfinished(|dir| dir == "/d").unwrap().len(), 1);
        assert_eq!(journal.unfinished(|dir| dir != "/d").unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_take_stays_and_is_said() {
        let (_dir, journal) = journal();
        for (name, text) in [
            ("1", ""),
            ("2", "{}\n-a\n"),
            ("3", "{\"command\":\"c\",\"dir\":\"d\"}\n-a"),
        ] {
            fs::write(journal.path().join(name), text).unwrap();
        }
        assert!(journal.load().unwrap().iter().all(Result::is_err));
        assert_eq!(fs::read_dir(journal.path()).unwrap().count(), 3);
    }
}
