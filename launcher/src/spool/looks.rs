//! When a spool is looked at: when something is told of it, again after what went wrong, and at the latest after a minute;
//! and what its operator is told where that is in vain.
//!
//! The kernel counts inotify's instances and watches by user, and so together with those of any container's uid 0 that has
//! no user namespace. Where they are used up, spools are looked at every second instead.
//!
//! An agent can touch its files as often as it likes, so whatever is told is listened to only after a pause.

use crate::service::{Service, key};
use portcullis_policy::Spool;
use portcullis_wire::limits::SPOOL;
use rustix::event::epoll;
use rustix::fs::inotify;
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// A spool is looked at so often although nothing is told of it: some file systems tell nothing.
const LOOK: Duration = Duration::from_secs(60);
/// And so often where the kernel tells nothing.
const UNTOLD: Duration = Duration::from_secs(1);
/// The pause before inotify is asked for again.
const LISTEN: Duration = Duration::from_secs(5);
/// The shortest pause between two looks at a spool, and during which nothing that is told is listened to: whoever touches
/// files all the time costs the host no more than that.
const PAUSE: Duration = Duration::from_millis(5);
/// The pause after as much as a file may have was taken; after less, as much less.
const REST: Duration = Duration::from_secs(1);
/// The pause before what could not be taken is tried again, which doubles.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A lock that is held for so long is told of: the field's wrappers give up after it.
const HELD: Duration = Duration::from_secs(10);

/// One spool, and how its taker is doing.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) spool: Spool,
    ask: Sender<()>,
    ended: Arc<AtomicBool>,
    /// Its taker has the lock.
    locked: Arc<AtomicBool>,
    pub(super) watch: Option<i32>,
    /// Why the kernel tells nothing of it.
    pub(super) unwatched: Option<Errno>,
    /// When it was asked to take, while it has not.
    pub(super) asked: Option<Instant>,
    look_at: Instant,
    /// Not before then, whatever is told: what an agent has copied costs the host time that is not its own.
    rests_until: Instant,
    pause: Duration,
    pub(super) problem: Option<String>,
}

impl Watched {
    /// To be looked at at once.
    pub(super) fn new(
        spool: Spool,
        ask: Sender<()>,
        ended: Arc<AtomicBool>,
        locked: Arc<AtomicBool>,
    ) -> Self {
        Self {
            spool,
            ask,
            ended,
            locked,
            watch: None,
            unwatched: None,
            asked: None,
            look_at: Instant::now(),
            rests_until: Instant::now(),
            pause: AGAIN.0,
            problem: None,
        }
    }

    /// Its taker is done, has copied so many bytes, and may have failed: says when it is looked at again.
    pub(super) fn was_looked_at(
        &mut self,
        now: Instant,
        copied: u64,
        watch_is_new: bool,
        failed: bool,
    ) {
        self.asked = None;
        self.rests_until = now + REST.mul_f64(copied as f64 / SPOOL as f64);
        // What was told while it was at work is older than `now`, and has to be looked for after the pause.
        // And what was told of a watch that nobody knew yet was not heard at all.
        let told = self.look_at <= now || watch_is_new;
        if failed {
            self.look_at = now + self.pause;
            self.pause = (self.pause * 2).min(AGAIN.1);
        } else {
            self.pause = AGAIN.0;
            let untold = if self.watch.is_some() { LOOK } else { UNTOLD };
            self.look_at = now + if told { PAUSE } else { untold };
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Its thread may wait for the lock, and must then take nothing any more. It ends when it cannot be asked again.
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Service {
    /// Something happened in a directory that is watched.
    pub(crate) fn spools_are_touched(&mut self) {
        let watches = Arc::clone(&self.spools.watches);
        let Some(watches) = watches.get() else {
            return;
        };
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(watches, &mut buffer);
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
        if epoll::delete(&self.epoll, watches).is_ok() {
            self.spools.deaf_until = Some(now + PAUSE);
        }
    }

    /// Says what is wrong with a spool, or that nothing is any more.
    pub(super) fn spool_is(&mut self, number: u64, problem: Option<String>) {
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

    /// Says that the kernel tells nothing of a spool, or that it does again.
    pub(super) fn spool_is_watched(
        &mut self,
        number: u64,
        watch: Option<i32>,
        unwatched: Option<Errno>,
    ) {
        let Some(watched) = self.spools.watched.get_mut(&number) else {
            return;
        };
        let (agent, spool) = (self.options.agent.as_str(), &*watched.spool.dir);
        match (watch, unwatched) {
            (_, Some(errno)) if watched.unwatched.is_none() => tracing::warn!(
                agent,
                spool,
                "cannot watch spool; looking every second: {errno}. hint: all containers' uid 0 counts against \
                 fs.inotify.max_user_instances and max_user_watches"
            ),
            (Some(_), None) if watched.unwatched.is_some() => {
                tracing::info!(agent, spool, "watching spool again");
            }
            (None, None) => return,
            _ => {}
        }
        self.status.outdated |= watched.unwatched != unwatched;
        watched.unwatched = unwatched;
    }

    /// Asks for inotify where there is none; says when to ask again.
    fn listen_to_spools(&mut self, now: Instant) -> Option<Instant> {
        let spools = &mut self.spools;
        if !spools.any() || spools.watches.get().is_some() {
            return None;
        }
        if spools.listen_at > now {
            return Some(spools.listen_at);
        }
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let Ok(watches) = inotify::init(flags) else {
            spools.listen_at = now + LISTEN;
            return Some(spools.listen_at);
        };
        let _ = spools.watches.set(watches);
        // To be listened to at once.
        spools.deaf_until = Some(now);
        None
    }

    /// Has lines taken where it is time; says when it is time again.
    pub(crate) fn look_at_spools(&mut self, now: Instant) -> Option<Instant> {
        if self.stopping.is_some() {
            return None;
        }
        let mut next = self.listen_to_spools(now);
        if let (Some(until), Some(watches)) = (self.spools.deaf_until, self.spools.watches.get()) {
            if until <= now && self.add(key::WATCHES, watches.as_fd()).is_ok() {
                self.spools.deaf_until = None;
            } else {
                next = next.into_iter().chain([until.max(now + PAUSE / 5)]).min();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn watched() -> Watched {
        let [command, dir, lock] = ["dnsmasq", "/d", "/d/lock"].map(Arc::from);
        let spool = Spool { command, dir, lock };
        let (ended, locked) = (Arc::default(), Arc::default());
        Watched::new(spool, channel().0, ended, locked)
    }

    #[test]
    fn what_was_told_during_a_look_or_by_a_new_watch_is_looked_for_soon() {
        let mut watched = watched();
        watched.watch = Some(1);
        let now = watched.look_at;
        watched.was_looked_at(now, 0, false, false);
        assert_eq!(watched.look_at, now + PAUSE);
        for (watch_is_new, pause) in [(false, LOOK), (true, PAUSE)] {
            watched.look_at = now + LOOK;
            watched.was_looked_at(now, 0, watch_is_new, false);
            assert_eq!(watched.look_at, now + pause);
        }
    }

    #[test]
    fn unwatched_spools_are_looked_at_every_second() {
        let mut watched = watched();
        let now = watched.look_at;
        watched.look_at = now + LOOK;
        watched.was_looked_at(now, 0, false, false);
        assert_eq!(watched.look_at, now + UNTOLD);
    }

    #[test]
    fn the_pauses_between_looks_in_vain_grow_and_are_short_again_after_one_that_was_not() {
        let mut watched = watched();
        let now = watched.look_at;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            watched.was_looked_at(now, 0, true, true);
            assert_eq!(watched.look_at, now + Duration::from_secs(seconds));
        }
        watched.was_looked_at(now, 0, false, false);
        watched.was_looked_at(now, 0, false, true);
        assert_eq!(watched.look_at, now + AGAIN.0);
    }

    #[test]
    fn a_spool_rests_the_longer_the_more_was_taken_from_it() {
        let mut watched = watched();
        let now = watched.look_at;
        for (copied, rest) in [(0, Duration::ZERO), (SPOOL / 2, REST / 2), (SPOOL, REST)] {
            watched.was_looked_at(now, copied, false, false);
            assert_eq!(watched.rests_until, now + rest);
        }
    }
}
