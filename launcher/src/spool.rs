//! The file and timestamp transport: lines that agents leave in files, on the same way as datagrams.
//!
//! A thread for each spool of the policy takes lines into the journal, when something is written there, at the start, and
//! every minute in case nobody was told, or every second where the kernel tells nothing. From there they are handed to the broker one by one, which reads and judges them,
//! and are then requests like any other; what becomes of each ends it, or has it tried again.

mod feed;
mod journal;
mod lines;
mod looks;
mod queue;
mod taker;

pub(crate) use journal::Journal;
pub(crate) use lines::{Line, Lines};

use crate::service::Service;
use looks::Watched;
use portcullis_policy::Spool;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use taker::{Dropped, TakeError, Taken, Taker};

/// A thread's stack in bytes.
const STACK: usize = 256 * 1024;
/// Clients wait for the first look at each spool, but no longer than that: an agent may hold its lock.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// The spools of the policy in force.
#[derive(Debug)]
pub(crate) struct Spools {
    journal: Arc<Journal>,
    arrivals: Arc<AtomicU64>,
    /// inotify, where the kernel has an instance for us.
    watches: Arc<OnceLock<OwnedFd>>,
    /// When one is asked for, where there is none.
    listen_at: Instant,
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

impl Spools {
    pub(crate) fn new(journal: Journal, arrivals: Arc<AtomicU64>) -> io::Result<Self> {
        let (tell, outcomes) = channel();
        Ok(Self {
            journal: Arc::new(journal),
            arrivals,
            watches: Arc::default(),
            listen_at: Instant::now(),
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

    /// What is readable when a taker is done.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
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

    /// How many the kernel tells nothing of.
    pub(crate) fn unwatched(&self) -> usize {
        let unwatched = |watched: &&Watched| watched.unwatched.is_some();
        self.watched.values().filter(unwatched).count()
    }

    fn remove_watch(&self, watch: i32) {
        if let Some(watches) = self.watches.get() {
            // Its directory may be gone, and the watch with it.
            let _ = inotify::remove_watch(watches, watch);
        }
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
        let watched = Watched::new(spool.clone(), ask, ended, locked);
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
        let old = |watched: &&Watched| !wanted.contains(&watched.spool);
        for watch in self
            .spools
            .watched
            .values()
            .filter(old)
            .filter_map(|w| w.watch)
        {
            // Another one may have the same directory by now, and watches it anew with its first look.
            self.spools.remove_watch(watch);
        }
        let watched = &mut self.spools.watched;
        watched.retain(|_, watched| wanted.contains(&watched.spool));
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
            if self.take_records.one_more() {
                tracing::info!(agent, spool, lines, "lines were taken");
            }
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
                self.spools.remove_watch(watch);
            }
            return;
        };
        let watch_is_new = taken.watch != watched.watch;
        let mut old = None;
        if taken.watch.is_some() || taken.unwatched.is_some() {
            old = std::mem::replace(&mut watched.watch, taken.watch);
        }
        watched.was_looked_at(now, copied, watch_is_new, error.is_some());
        if let Some(old) = old.filter(|_| watch_is_new) {
            // The directory was made anew.
            self.spools.remove_watch(old);
        }
        self.spool_is_watched(number, taken.watch, taken.unwatched);
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
}
