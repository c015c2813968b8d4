//! The file and timestamp transport: lines that agents leave in files, on the same way as datagrams.
//!
//! A thread for each spool of the policy takes lines into the journal, when something is written there, at the start, and
//! every minute in case nobody was told. From there they are handed to the broker one by one, which reads and judges them,
//! and are then requests like any other; what becomes of each ends it, or has it tried again.

mod feed;
mod journal;
mod lines;
mod queue;
mod taker;

pub(crate) use journal::Journal;
pub(crate) use lines::{Line, Lines};

use crate::service::{Service, key};
use portcullis_policy::Spool;
use portcullis_wire::limits::SPOOL;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::inotify;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use taker::{Dropped, TakeError, Taken, Taker};

/// A thread's stack in bytes.
const STACK: usize = 256 * 1024;
/// A spool is looked at so often although nothing is told of it: some file systems tell nothing.
const LOOK: Duration = Duration::from_secs(60);
/// The shortest pause between two looks at a spool, and during which nothing that is told is listened to: whoever touches
/// files all the time costs the host no more than that.
const PAUSE: Duration = Duration::from_millis(5);
/// The pause after as much as a file may have was taken; after less, as much less.
const REST: Duration = Duration::from_secs(1);
/// The pause before what could not be taken is tried again, which doubles.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Clients wait for the first look at each spool, but no longer than that: an agent may hold its lock.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// A lock that is held for so long is told of: the field's wrappers give up after it.
const HELD: Duration = Duration::from_secs(10);

/// The spools of the policy in force.
#[derive(Debug)]
pub(crate) struct Spools {
    journal: Arc<Journal>,
    arrivals: Arc<AtomicU64>,
    watches: Arc<OwnedFd>,
    /// Until then nothing that is told is listened to.
    deaf_until: Option<Instant>,
    wake: Arc<OwnedFd>,
    tell: Sender<Looked>,
    outcomes: Receiver<Looked>,
    /// By numbers that are never used again.
    watched: BTreeMap<u64, Watched>,
    /// What is wrong with each that has no taker.
    untaken: Vec<String>,
    next: u64,
    /// What was left of an earlier life's takes was looked for.
    adopted: bool,
}

/// A taker has looked at its spool.
#[derive(Debug)]
struct Looked {
    number: u64,
    spool: Spool,
    taken: Taken,
    error: Option<TakeError>,
}

/// One spool, and how its taker is doing.
#[derive(Debug)]
struct Watched {
    spool: Spool,
    ask: Sender<()>,
    ended: Arc<AtomicBool>,
    /// Its taker has the lock.
    locked: Arc<AtomicBool>,
    watch: Option<i32>,
    /// When it was asked to take, while it has not.
    asked: Option<Instant>,
    look_at: Instant,
    /// Not before then, whatever is told: what an agent has copied costs the host time that is not its own.
    rests_until: Instant,
    pause: Duration,
    problem: Option<String>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Its thread may wait for the lock, and must then take nothing any more. It ends when it cannot be asked again.
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Spools {
    pub(crate) fn new(journal: Journal, arrivals: Arc<AtomicU64>) -> io::Result<Self> {
        let (tell, outcomes) = channel();
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Ok(Self {
            journal: Arc::new(journal),
            arrivals,
            watches: Arc::new(inotify::init(flags)?),
            deaf_until: None,
            wake: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            tell,
            outcomes,
            watched: BTreeMap::new(),
            untaken: Vec::new(),
            next: 0,
            adopted: false,
        })
    }

    /// What is readable when something happened in a spool, and when a taker is done.
    pub(crate) fn descriptors(&self) -> [(u64, &OwnedFd); 2] {
        [(key::WATCHES, &self.watches), (key::TAKERS, &self.wake)]
    }

    /// Whether a taker is at work, or waits for a lock.
    fn looking(&self) -> bool {
        self.watched.values().any(|w| w.asked.is_some())
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        !self.watched.is_empty()
    }

    /// How many cannot be taken from now.
    pub(crate) fn problems(&self) -> usize {
        let troubled = |watched: &&Watched| watched.problem.is_some();
        self.watched.values().filter(troubled).count() + self.untaken.len()
    }

    /// The first of those, for the status line.
    pub(crate) fn problem(&self) -> Option<&str> {
        let watched = self.watched.values().find_map(|w| w.problem.as_deref());
        watched.or(self.untaken.first().map(String::as_str))
    }

    fn add(&mut self, spool: &Spool) -> io::Result<()> {
        let (ask, asked) = channel();
        let ended = Arc::new(AtomicBool::new(false));
        let locked = Arc::new(AtomicBool::new(false));
        let mut taker = Taker {
            spool: spool.clone(),
            journal: Arc::clone(&self.journal),
            watches: Arc::clone(&self.watches),
            ended: Arc::clone(&ended),
            locked: Arc::clone(&locked),
            arrivals: Arc::clone(&self.arrivals),
            unsure: true,
        };
        let (number, tell, wake) = (self.next, self.tell.clone(), Arc::clone(&self.wake));
        let thread = std::thread::Builder::new()
            .name("taker".to_owned())
            .stack_size(STACK);
        thread.spawn(move || {
            while asked.recv().is_ok() {
                let (taken, error) = taker.take();
                let spool = taker.spool.clone();
                let looked = Looked {
                    number,
                    spool,
                    taken,
                    error,
                };
                if tell.send(looked).is_err() {
                    return;
                }
                let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
            }
        })?;
        self.next += 1;
        let watched = Watched {
            spool: spool.clone(),
            ask,
            ended,
            locked,
            watch: None,
            asked: None,
            look_at: Instant::now(),
            rests_until: Instant::now(),
            pause: AGAIN.0,
            problem: None,
        };
        self.watched.insert(number, watched);
        Ok(())
    }
}

impl Service {
    /// Watches the spools of the policy in force, and no other.
    pub(crate) fn follow_spools(&mut self) {
        let Some(policy) = self.policy.clone() else {
            return;
        };
        let wanted = policy.spools();
        let watches = &self.spools.watches;
        self.spools.watched.retain(|_, watched| {
            let stays = wanted.contains(&watched.spool);
            if let Some(watch) = watched.watch.filter(|_| !stays) {
                // Another one may have the same directory by now, and watches it anew with its first look.
                let _ = inotify::remove_watch(watches, watch);
            }
            stays
        });
        self.spools.untaken.clear();
        for spool in wanted {
            if self.spools.watched.values().any(|w| w.spool == *spool) {
                continue;
            }
            if let Err(error) = self.spools.add(spool) {
                let problem = format!(
                    "no thread for the spool {} ({error}): reload this service when the host has room",
                    spool.dir
                );
                tracing::error!(agent = self.options.agent.as_str(), "{problem}");
                self.spools.untaken.push(problem);
            }
        }
        self.status.outdated = true;
        if !self.spools.adopted {
            self.spools.adopted = true;
            self.adopt_takes(wanted);
        }
    }

    /// Takes up what an earlier life left. What may still be in a spool's file, too, is that spool's taker's to finish.
    fn adopt_takes(&mut self, wanted: &[Spool]) {
        let agent = self.options.agent.as_str();
        let journal = &self.spools.journal;
        let orphan = |dir: &str| !wanted.iter().any(|spool| *spool.dir == *dir);
        let finished = journal.unfinished(orphan).and_then(|mut takes| {
            // Nobody reads that file any more, so there is nothing to be taken twice.
            takes.iter_mut().try_for_each(|take| journal.finish(take))
        });
        let path = journal.path().display().to_string();
        match finished.and_then(|()| journal.load()) {
            Ok(takes) => {
                for take in takes {
                    match take {
                        Ok(take) => self.lines.add(take),
                        Err(error) => {
                            tracing::error!(agent, path, %error, "a part of the journal cannot be read, and stays");
                        }
                    }
                }
            }
            Err(error) => tracing::error!(
                agent, path, %error,
                "the journal cannot be read, so the lines in it wait: mend it, and restart this service"
            ),
        }
    }

    /// Something happened in a directory that is watched.
    pub(crate) fn spools_are_touched(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.spools.watches, &mut buffer);
        let now = Instant::now();
        // As much as was read at once; what is left is still there after the pause.
        loop {
            let (watch, touched) = match reader.next() {
                Ok(event) => {
                    let names = [Spool::PROCESSES, Spool::TIMESTAMP];
                    let name = event.file_name().and_then(|name| name.to_str().ok());
                    let overflow = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                    // The directory is gone, perhaps to be made anew.
                    let gone = event.events().contains(inotify::ReadFlags::IGNORED);
                    let watch = (!overflow).then(|| event.wd());
                    let named = name.is_some_and(|name| names.contains(&name));
                    (watch, overflow || gone || named)
                }
                Err(Errno::INTR) => continue,
                Err(_) => break,
            };
            for watched in self.spools.watched.values_mut() {
                if touched && (watch.is_none() || watched.watch == watch) {
                    // What is wrong with it is told no more often than that, whatever its agent does.
                    let wait = watched.problem.as_ref().map_or(Duration::ZERO, |_| AGAIN.0);
                    watched.look_at = watched.look_at.min(now + wait);
                }
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        if epoll::delete(&self.epoll, &self.spools.watches).is_ok() {
            self.spools.deaf_until = Some(now + PAUSE);
        }
    }

    /// A taker is done.
    pub(crate) fn takers_tell(&mut self) {
        let _ = rustix::io::read(&self.spools.wake, &mut [0; 8]);
        while let Ok(looked) = self.spools.outcomes.try_recv() {
            self.taken(looked);
        }
        if self.waits_for_spools && !self.spools.looking() {
            self.start_at = Some(Instant::now());
        }
    }

    /// Starts the first broker once the spools have been looked at: what lies there is older than what clients ask for
    /// from now on, which shows only where it is taken before.
    pub(crate) fn start_after_spools(&mut self) {
        let now = Instant::now();
        self.look_at_spools(now);
        if !self.spools.looking() {
            return self.start_broker();
        }
        self.waits_for_spools = true;
        self.start_at = Some(now + FIRST_LOOK);
    }

    fn taken(&mut self, looked: Looked) {
        let agent = self.options.agent.as_str().to_owned();
        let now = Instant::now();
        let Looked {
            number,
            spool,
            taken,
            error,
        } = looked;
        let error = error.map(|error| error.to_string());
        let copied: u64 = taken.takes.iter().map(|take| take.size).sum();
        for take in taken.takes {
            let (spool, lines) = (take.dir.to_string(), take.waiting().len());
            tracing::info!(agent, spool, lines, "lines were taken");
            self.counts.lines += lines as u64;
            self.lines.add(take);
        }
        for dropped in taken.dropped {
            self.record_dropped(&spool, dropped);
        }
        // Its spool may be none of the policy's any more; what was taken is taken.
        let Some(watched) = self.spools.watched.get_mut(&number) else {
            let others = self.spools.watched.values();
            let unused = |watch: &i32| !others.clone().any(|w| w.watch == Some(*watch));
            if let Some(watch) = taken.watch.filter(unused) {
                let _ = inotify::remove_watch(&self.spools.watches, watch);
            }
            return;
        };
        watched.asked = None;
        watched.rests_until = now + REST.mul_f64(copied as f64 / SPOOL as f64);
        let watch_is_new = taken.watch != watched.watch;
        if let Some(watch) = taken.watch {
            let old = watched.watch.replace(watch).filter(|old| *old != watch);
            if let Some(old) = old {
                // The directory was made anew.
                let _ = inotify::remove_watch(&self.spools.watches, old);
            }
        }
        // What was told while it was at work is older than `now`, and has to be looked for after the pause.
        // And what was told of a watch that nobody knew yet was not heard at all.
        let told = watched.look_at <= now || watch_is_new;
        match &error {
            None => {
                watched.pause = AGAIN.0;
                watched.look_at = now + if told { PAUSE } else { LOOK };
            }
            Some(_) => {
                watched.look_at = now + watched.pause;
                watched.pause = (watched.pause * 2).min(AGAIN.1);
            }
        }
        self.spool_is(number, error);
    }

    /// Records what was taken out of a file and is no line, or too much.
    fn record_dropped(&mut self, spool: &Spool, dropped: Dropped) {
        self.counts
            .answered("denied", Some(dropped.reason), "launcher", 1);
        if !self.denial_records.one_more() {
            return;
        }
        let Dropped { reason, why, text } = dropped;
        self.record_unread(&spool.dir, &spool.command, text, reason, &why);
    }

    /// Says what is wrong with a spool, or that nothing is any more.
    fn spool_is(&mut self, number: u64, problem: Option<String>) {
        let Some(watched) = self.spools.watched.get_mut(&number) else {
            return;
        };
        let (agent, spool) = (self.options.agent.as_str(), &*watched.spool.dir);
        match &problem {
            // Whatever an agent does to it, that is one line for each look, and looks after an error are rare.
            Some(problem) if watched.problem.as_ref() != Some(problem) => tracing::error!(
                agent,
                spool,
                "nothing can be taken from a spool, and it is tried again: {problem}"
            ),
            None if watched.problem.is_some() => {
                tracing::info!(agent, spool, "the spool can be taken from again");
            }
            _ => {}
        }
        self.status.outdated |= watched.problem != problem;
        watched.problem = problem;
    }

    /// Has lines taken where it is time; says when it is time again.
    pub(crate) fn look_at_spools(&mut self, now: Instant) -> Option<Instant> {
        if self.stopping.is_some() {
            return None;
        }
        let mut next = None;
        if let Some(until) = self.spools.deaf_until {
            if until <= now && self.add(key::WATCHES, self.spools.watches.as_fd()).is_ok() {
                self.spools.deaf_until = None;
            } else {
                next = Some(until.max(now + PAUSE / 5));
            }
        }
        let room = self.lines.have_room();
        let mut held = Vec::new();
        for (number, watched) in &mut self.spools.watched {
            let due = match watched.asked {
                None if watched.look_at.max(watched.rests_until) > now => {
                    watched.look_at.max(watched.rests_until)
                }
                // Lines stay where they are until those before them are done.
                None if !room => now + AGAIN.0,
                None => {
                    // Whatever is told from now on is to be looked for once more.
                    watched.look_at = now + LOOK;
                    let _ = watched.ask.send(());
                    watched.asked = Some(now);
                    now + HELD
                }
                Some(asked) if asked + HELD > now => asked + HELD,
                Some(_) => {
                    if watched.problem.is_none() {
                        held.push(*number);
                    }
                    continue;
                }
            };
            next = next.into_iter().chain([due]).min();
        }
        for number in held {
            let Some(Watched { spool, locked, .. }) = self.spools.watched.get(&number) else {
                continue;
            };
            let (dir, lock, seconds) = (&spool.dir, &spool.lock, HELD.as_secs());
            let problem = if locked.load(Ordering::Relaxed) {
                format!(
                    "taking from {dir} has not come to an end for {seconds} s: does its disk hang, or the one of {}?",
                    self.spools.journal.path().display()
                )
            } else {
                format!(
                    "the lock {lock} is held for {seconds} s; who holds it: lslocks, or fuser {lock}"
                )
            };
            self.spool_is(number, Some(problem));
        }
        next
    }
}
