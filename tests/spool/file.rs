//! Something else in the place of a spool's files: it is refused by what it is, never read, never written, never waited
//! for. Other spools go on, and when it is mended the lines are launched.

use crate::{NAP, SLEEP, complained, launched, line, with_spools};
use portcullis_tests::{Agent, Host, Service, Spool, holds};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What an agent may put there, and a word of what the launcher says of it.
const KINDS: [(&str, &str); 7] = [
    ("symlink", "symbolic link"),
    ("dangling symlink", "symbolic link"),
    ("hard link", "link"),
    ("FIFO", "FIFO"),
    ("directory", "directory"),
    ("device", "device"),
    ("socket", "socket"),
];

/// What stands in the target of a link: lines that would be launched.
const TARGET: &str = "'' 6661\n'' 6662\n";

/// An agent with a spool that is attacked, and another one.
struct Attacked<'h> {
    agent: Agent<'h>,
    sleeps: Spool,
    naps: Spool,
    target: PathBuf,
    rounds: usize,
}

impl<'h> Attacked<'h> {
    fn new(host: &'h Host) -> Self {
        let (sleeps, naps) = (Spool::new(host, "sleep"), Spool::new(host, "nap"));
        let target = host.path().join("target");
        fs::write(&target, TARGET).unwrap();
        let agent = with_spools(host, &[SLEEP, NAP], &[&sleeps, &naps]);
        Self {
            agent,
            sleeps,
            naps,
            target,
            rounds: 0,
        }
    }

    /// Puts something of that kind at a path.
    fn put(&self, kind: &str, path: &Path) {
        let _ = fs::remove_file(path);
        let node = |kind, device| mknodat(CWD, path, kind, Mode::from(0o666), device).unwrap();
        match kind {
            "symlink" => symlink(&self.target, path).unwrap(),
            "dangling symlink" => symlink("/nowhere", path).unwrap(),
            "hard link" => fs::hard_link(&self.target, path).unwrap(),
            "FIFO" => node(FileType::Fifo, 0),
            "directory" => fs::create_dir(path).unwrap(),
            "device" => node(FileType::CharacterDevice, makedev(1, 5)), // zeros without end
            "socket" => drop(std::os::unix::net::UnixDatagram::bind(path).unwrap()),
            other => panic!("{other}"),
        }
    }

    /// Others are served: the operator, clients, and the other spool.
    #[track_caller]
    fn others_go_on(&mut self, service: &Service) {
        self.rounds += 1;
        assert!(service.operator().is_served() && service.client().is_served());
        let seconds = 2000 + self.rounds;
        self.naps.write(&line(seconds));
        launched(service, &self.naps, &format!("nap-{seconds}"));
        assert_eq!(fs::read_to_string(&self.target).unwrap(), TARGET);
    }

    /// What was written while something was wrong is launched, now that it is mended.
    #[track_caller]
    fn is_mended(&self, service: &Service) {
        let seconds = 1000 + self.rounds;
        self.sleeps.touch();
        launched(service, &self.sleeps, &format!("sleep-{seconds}"));
    }

    #[track_caller]
    fn nothing_else_was_launched(&self) {
        let calls = self.agent.host().engine().calls();
        assert_eq!(calls.runs().len(), 2 * self.rounds, "{calls:?}");
        for run in calls.runs() {
            assert!(!run.values("--name")[0].contains("-666"), "{run:?}");
        }
    }

    /// How many errors of the attacked spool there were.
    fn errors(&self) -> usize {
        self.agent.audit().errors_of(self.sleeps.dir()).len()
    }
}

fn remove(path: &Path) {
    let removed = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    removed.unwrap();
}

#[test]
fn whatever_stands_in_the_place_of_the_lines_is_refused_and_not_touched() {
    let host = Host::new();
    let mut attacked = Attacked::new(&host);
    let service = attacked.agent.start();
    for (kind, word) in KINDS {
        let path = attacked.sleeps.processes();
        let before = attacked.errors();
        attacked.put(kind, &path);
        attacked.sleeps.touch();
        holds(&format!("{kind} is refused"), || {
            let errors = service.audit().errors_of(attacked.sleeps.dir());
            errors[before..].iter().any(|error| error.contains(word))
        });
        attacked.others_go_on(&service);
        remove(&path);
        attacked
            .sleeps
            .append_unlocked(format!("{}\n", line(1000 + attacked.rounds)).as_bytes());
        attacked.is_mended(&service);
    }
    attacked.nothing_else_was_launched();
}

#[test]
fn whatever_stands_in_the_place_of_the_lock_is_refused_and_not_touched() {
    let host = Host::new();
    let mut attacked = Attacked::new(&host);
    let service = attacked.agent.start();
    // By then it has looked, and has made the lock.
    assert!(service.client().is_served());
    for (kind, word) in KINDS {
        let path = attacked.sleeps.lock();
        let before = attacked.errors();
        attacked.put(kind, &path);
        let next = line(1001 + attacked.rounds);
        attacked
            .sleeps
            .append_unlocked(format!("{next}\n").as_bytes());
        attacked.sleeps.touch();
        holds(&format!("{kind} is refused"), || {
            let errors = service.audit().errors_of(attacked.sleeps.dir());
            errors[before..].iter().any(|error| error.contains(word))
        });
        attacked.others_go_on(&service);
        assert_ne!(attacked.sleeps.content(), "", "not taken without the lock");
        remove(&path);
        attacked.is_mended(&service);
    }
    attacked.nothing_else_was_launched();
    assert!(!Path::new("/nowhere").exists());
}

/// It is a signal and nothing more: whatever it is, lines are launched, at the latest with the next look.
#[test]
fn whatever_stands_in_the_place_of_the_timestamp_is_not_touched_and_lines_are_launched() {
    for (kind, _) in KINDS {
        let host = Host::new();
        let mut attacked = Attacked::new(&host);
        attacked.put(kind, &attacked.sleeps.timestamp());
        attacked.sleeps.append(b"'' 1001\n");
        let service = attacked.agent.start();
        launched(&service, &attacked.sleeps, "sleep-1001");
        attacked.others_go_on(&service);
        attacked.nothing_else_was_launched();
        assert!(!Path::new("/nowhere").exists());
    }
}

#[test]
fn a_directory_that_is_a_symbolic_link_is_refused_until_it_is_one_itself() {
    let host = Host::new();
    let mut attacked = Attacked::new(&host);
    let dir = attacked.sleeps.dir().to_owned();
    let moved = dir.with_file_name("moved");
    let service = attacked.agent.start();
    assert!(service.client().is_served());
    fs::rename(&dir, &moved).unwrap();
    symlink(&moved, &dir).unwrap();
    attacked.sleeps.append(b"'' 1001\n");
    attacked.sleeps.touch();
    attacked.others_go_on(&service);
    complained(&service, &attacked.sleeps, "symbolic link");
    assert_eq!(attacked.sleeps.content(), "'' 1001\n");

    fs::remove_file(&dir).unwrap();
    fs::rename(&moved, &dir).unwrap();
    attacked.is_mended(&service);
    attacked.nothing_else_was_launched();
}

/// An agent that owns a directory above the spool could lead it elsewhere.
#[test]
fn a_symbolic_link_on_the_way_to_the_directory_is_refused() {
    let host = Host::new();
    let mut attacked = Attacked::new(&host);
    let parent = attacked.sleeps.dir().parent().unwrap().to_owned();
    let moved = host.path().join("moved");
    fs::rename(&parent, &moved).unwrap();
    symlink(&moved, &parent).unwrap();
    attacked.sleeps.append(b"'' 1001\n");
    let service = attacked.agent.start();
    complained(&service, &attacked.sleeps, "symbolic link");
    assert_eq!(attacked.sleeps.content(), "'' 1001\n");
    fs::remove_file(&parent).unwrap();
    fs::rename(&moved, &parent).unwrap();
    attacked.others_go_on(&service);
    attacked.is_mended(&service);
    attacked.nothing_else_was_launched();
}

#[test]
fn lines_of_a_file_that_is_neither_roots_nor_the_directorys_owners_are_refused() {
    let host = Host::new();
    let mut attacked = Attacked::new(&host);
    let (agents, anothers) = (Some(42435), Some(42436));
    chown(attacked.sleeps.dir(), agents, agents).unwrap();
    attacked.sleeps.append(b"'' 1001\n");
    chown(attacked.sleeps.processes(), anothers, anothers).unwrap();
    let service = attacked.agent.start();
    complained(&service, &attacked.sleeps, "own");
    attacked.others_go_on(&service);
    assert_eq!(attacked.sleeps.content(), "'' 1001\n");
    chown(attacked.sleeps.processes(), agents, agents).unwrap();
    attacked.is_mended(&service);
    // And root's.
    attacked.others_go_on(&service);
    attacked.sleeps.append(b"'' 1002\n");
    chown(attacked.sleeps.processes(), Some(0), Some(0)).unwrap();
    attacked.is_mended(&service);
    attacked.nothing_else_was_launched();
}

/// It would be read, and emptied.
#[test]
fn a_file_that_is_mounted_in_the_place_of_the_lines_is_refused() {
    let host = Host::new();
    let mut attacked = Attacked::new(&host);
    attacked.sleeps.append(b"'' 1001\n");
    let (target, path) = (attacked.target.clone(), attacked.sleeps.processes());
    mount(&target, &path, "", MountFlags::BIND, None).unwrap();
    let service = attacked.agent.start();
    complained(&service, &attacked.sleeps, "cannot be reached");
    attacked.others_go_on(&service);
    unmount(&path, UnmountFlags::empty()).unwrap();
    attacked.is_mended(&service);
    attacked.nothing_else_was_launched();
}

/// An agent that owns a directory above the lock could have a file made anywhere.
#[test]
fn a_symbolic_link_on_the_way_to_the_lock_is_refused() {
    let host = Host::new();
    let (locks, elsewhere) = (host.path().join("locks"), host.path().join("elsewhere"));
    let spool = Spool::new(&host, "sleep").with_lock(&locks.join("sleep.lock"));
    let agent = with_spools(&host, &[SLEEP], &[&spool]);
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &locks).unwrap();
    spool.append_unlocked(b"'' 1001\n");
    let service = agent.start();
    complained(&service, &spool, "symbolic link");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(spool.content(), "'' 1001\n");
    fs::remove_file(&locks).unwrap();
    fs::rename(&elsewhere, &locks).unwrap();
    launched(&service, &spool, "sleep-1001");
}

/// An agent that leaves it so would fill the log.
#[test]
fn what_is_wrong_is_told_once_and_its_end_too() {
    let host = Host::new();
    let mut attacked = Attacked::new(&host);
    attacked.put("FIFO", &attacked.sleeps.processes());
    let begin = Instant::now();
    let service = attacked.agent.start();
    complained(&service, &attacked.sleeps, "FIFO");
    for _ in 0..4 {
        // Each look begins with the lock.
        let _ = fs::remove_file(attacked.sleeps.lock());
        attacked.sleeps.touch();
        holds("it is looked at again", || attacked.sleeps.lock().exists());
    }
    // Not at once, however often it is touched.
    assert!(begin.elapsed() > Duration::from_secs(2));
    attacked.others_go_on(&service);
    remove(&attacked.sleeps.processes());
    attacked.sleeps.append(b"'' 1001\n");
    attacked.is_mended(&service);
    assert_eq!(attacked.errors(), 1);
    let mended = "the spool can be taken from again";
    assert_eq!(service.audit().with("message", mended).len(), 1);
}
