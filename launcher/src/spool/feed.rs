//! The lines' way to the broker and back: it is given one at a time, when there is room for what that may become, and has
//! to answer it.

use super::lines::{BUSY, Line};
use super::queue::LineId;
use super::taker::SHOWN;
use crate::audit::{self, Asked, Phases, Verdict, Who};
use crate::bucket::Bucket;
use crate::service::Service;
use crate::table::{Pending, ReplyTo};
use portcullis_policy::Rate;
use portcullis_wire::{Body, DenialCount, Directive, Launch, Reason, codec, limits, line};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many lines wait to be tried again before no new one is looked at.
const PARKED: usize = 1024;
/// How many brokers may end over a line before it is not given to another one.
const BROKERS: u32 = 3;
/// How long a broker may have a line: an honest one needs well below a millisecond.
const ANSWER: Duration = Duration::from_secs(10);
/// How many lines the broker is given: an agent that fills its files costs others no more than that.
const PACE: Rate = Rate {
    count: 1000,
    per: Duration::from_secs(1),
};
/// So many lines in a row that need no broker, then everybody else.
const TURN: usize = 64;

/// Which line the broker has, and when the next one may be given.
#[derive(Debug)]
pub(super) struct Feed {
    asking: Option<Asking>,
    /// How many brokers have ended over the line that is asked about, or is the next one.
    ended: u32,
    next: u64,
    pace: Bucket,
    /// Nothing is given to anybody before then: no broker had room.
    wait_until: Option<Instant>,
}

/// The line that a broker has.
#[derive(Debug)]
struct Asking {
    id: LineId,
    /// Its text, and the command of its spool.
    text: Vec<u8>,
    command: Arc<str>,
    number: u64,
    broker: u64,
    until: Instant,
}

impl Asking {
    /// What the line asks for, as the launcher reads it; `None`: it is no line.
    fn read(&self) -> Option<Launch> {
        line::request(&self.command, &self.text).ok()
    }

    /// The same for a record.
    fn told(&self) -> Asked {
        let unread = || Asked::unread(&self.command, beginning(&self.text));
        self.read().as_ref().map_or_else(unread, Asked::of)
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            asking: None,
            ended: 0,
            next: 1,
            pace: Bucket::full(),
            wait_until: None,
        }
    }
}

impl Feed {
    /// How many lines a broker has.
    pub(super) fn asking(&self) -> usize {
        usize::from(self.asking.is_some())
    }

    /// The line of this number, if this broker has it.
    fn asked(&self, broker: u64, number: u64) -> Result<&Asking, String> {
        let asked = self.asking.as_ref();
        let asked = asked.filter(|a| a.broker == broker && a.number == number);
        asked.ok_or_else(|| "answered a line that it was not given".to_owned())
    }

    /// The broker has answered the line that it had.
    fn answered(&mut self) {
        self.asking = None;
        self.ended = 0;
    }
}

impl Service {
    /// Hands lines on as far as there is room for them; says when to look again.
    pub(crate) fn hand_lines_on(&mut self, now: Instant) -> Option<Instant> {
        if self.stopping.is_some() || !self.recovered {
            return None;
        }
        let due = self.try_parked(now);
        let silent = self.end_silent_broker(now);
        let waits = self.lines.feed.wait_until.filter(|until| *until > now);
        let fed = if waits.is_some() {
            waits
        } else {
            self.feed(now)
        };
        due.into_iter().chain(silent).chain(fed).min()
    }

    /// Ends the broker that keeps a line to itself, as all others wait behind that; says when that would be.
    fn end_silent_broker(&mut self, now: Instant) -> Option<Instant> {
        let asking = self.lines.feed.asking.as_mut()?;
        if asking.until > now {
            return Some(asking.until);
        }
        // Once: that it has ended is heard soon, and gives the line to another one.
        asking.until = now + ANSWER;
        let broker = asking.broker;
        let child = self.children.iter_mut().find(|c| c.key == broker)?;
        tracing::error!(
            agent = self.options.agent.as_str(),
            "the broker was ended, because it has not answered a line for {} s",
            ANSWER.as_secs()
        );
        child.broker.kill();
        None
    }

    /// Whether another line may become a request. Half of the places are for those who wait on a socket.
    fn have_room_for_a_line(&self) -> bool {
        let most = self.policy.as_ref().map_or(0, |p| p.limits().in_flight);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        self.lines.under_way < most.div_ceil(2)
            && self.table.in_flight() < most
            && self.workers.have_room()
            && !self.workers.all_hang()
    }

    /// Tries again what is due; says when more is.
    fn try_parked(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let rate = self.policy.as_ref()?.limits().launches;
            let free = self.bucket.ready_at(rate, rate.count / 2, now);
            let due = |(at, pending): &(Instant, Pending)| {
                if pending.is_paid() {
                    *at
                } else {
                    free.max(*at)
                }
            };
            let parked = self.lines.parked.iter().map(due).enumerate();
            let (at, due) = parked.min_by_key(|(_, due)| *due)?;
            if due > now {
                return Some(due);
            }
            if !self.have_room_for_a_line() {
                // Whatever makes room wakes the loop.
                return Some(now + BUSY.1);
            }
            let (_, mut pending) = self.lines.parked.swap_remove(at);
            self.lines.under_way += 1;
            pending.plan = None;
            pending.at = Phases {
                received: audit::now(),
                ..Phases::default()
            };
            self.consider(pending);
        }
    }

    /// Gives the broker the next line; says when to try again if something other than an event makes that possible.
    fn feed(&mut self, now: Instant) -> Option<Instant> {
        for _ in 0..TURN {
            let id = self.lines.queue.first()?;
            let rate = self.policy.as_ref()?.limits().launches;
            if self.lines.feed.asking.is_some()
                || self.lines.parked.len() >= PARKED
                || !self.have_room_for_a_line()
            {
                return None;
            }
            let length = self.lines.length(id);
            if length > limits::LINE {
                let why = format!(
                    "the line has {length} bytes; at most {} are read",
                    limits::LINE
                );
                self.lines.queue.take_first();
                self.drop_line(id, Reason::TooLarge, &why);
                continue;
            }
            let paced = self.lines.feed.pace.ready_at(PACE, 0, now);
            let free = self.bucket.ready_at(rate, rate.count / 2, now).max(paced);
            if free > now {
                return Some(free);
            }
            // One of an older policy would deny, for ever, what this one allows.
            let (serving, generation) = (self.children.iter(), self.generation());
            let serving = serving.filter(|c| c.broker.ready.is_some() && !c.draining);
            let broker = serving
                .filter(|c| c.generation == generation)
                .max_by_key(|c| c.key)?;
            let take = self.lines.takes.get(&id.take)?;
            let text = match take.text(id.at, limits::LINE) {
                Ok(text) => text,
                Err(error) => {
                    let (agent, spool) = (self.options.agent.as_str(), &*take.dir);
                    tracing::error!(agent, spool, %error, "a line cannot be read in the journal");
                    if is_for_now(&error) {
                        let until = now + BUSY.1;
                        self.lines.feed.wait_until = Some(until);
                        return Some(until);
                    }
                    let why = format!("it cannot be read in the journal: {error}");
                    self.lines.queue.take_first();
                    self.drop_line(id, Reason::Internal, &why);
                    continue;
                }
            };
            let number = self.lines.feed.next;
            let command = Arc::clone(&take.command);
            let directive = Directive::Line {
                number,
                dir: take.dir.to_string(),
                command: command.to_string(),
                text: text.clone(),
            };
            if !broker.broker.direct(&directive) {
                return Some(now + BUSY.0);
            }
            let (broker, until) = (broker.key, now + ANSWER);
            self.lines.queue.take_first();
            let feed = &mut self.lines.feed;
            feed.pace.take(PACE);
            feed.next += 1;
            feed.asking = Some(Asking {
                id,
                text,
                command,
                number,
                broker,
                until,
            });
            return Some(until);
        }
        Some(now)
    }

    /// A broker would allow a line, and has read it as this request.
    ///
    /// `Err` says how the broker broke the protocol, which no honest one does.
    pub(crate) fn line_is_allowed(
        &mut self,
        broker: u64,
        number: u64,
        datagram: &[u8],
    ) -> Result<(), String> {
        let asking = self.lines.feed.asked(broker, number)?;
        let own = asking.read().filter(|own| {
            codec::decode_request(datagram)
                .is_ok_and(|read| matches!(&read.body, Body::Launch(launch) if launch == own))
        });
        // A broker that is killed for it counts as one that has ended over the line.
        let launch = own.ok_or_else(|| "read a line as what it does not say".to_owned())?;
        let id = asking.id;
        self.lines.feed.answered();
        let Some(take) = self.lines.takes.get(&id.take) else {
            return Ok(());
        };
        let (dir, after) = (Arc::clone(&take.dir), take.after);
        let pending = Pending {
            to: ReplyTo::Line(Line::new(id)),
            id: number,
            arrival: (after, id.take, id.at + 1),
            asked: Asked::of(&launch),
            launch,
            who: Who::Spool(dir),
            at: Phases {
                received: audit::now(),
                ..Phases::default()
            },
            plan: None,
            joined: false,
        };
        self.lines.under_way += 1;
        self.consider(pending);
        Ok(())
    }

    /// A broker has denied a line.
    ///
    /// `Err` says how the broker broke the protocol, which no honest one does.
    pub(crate) fn line_is_denied(
        &mut self,
        broker: u64,
        generation: &str,
        number: u64,
        denial: &DenialCount,
    ) -> Result<(), String> {
        let asking = self.lines.feed.asked(broker, number)?;
        let (id, asked) = (asking.id, asking.told());
        self.lines.feed.answered();
        if generation != self.generation() {
            // By the policy that was reloaded meanwhile.
            self.lines.put_back(id);
            return Ok(());
        }
        if denial.reason == Reason::PolicyUnavailable {
            // That one has no policy, and there is one: a broker is to come that has it.
            self.lines.put_back(id);
            self.lines.feed.wait_until = Some(Instant::now() + BUSY.1);
            return Ok(());
        }
        let reason = Some(denial.reason);
        self.counts.answered("denied", reason, "broker", 1);
        let spool = self.lines.takes.get(&id.take).map(|take| &*take.dir);
        if self.denial_records.one_more() {
            let agent = self.options.agent.as_str();
            let line = spool.map(|spool| (spool, &asked));
            audit::record_broker(agent, line, generation, denial);
        }
        self.lines.over(id);
        Ok(())
    }

    /// A broker has ended: the line that it had is given to the next one, unless it may be what ended them.
    pub(crate) fn broker_had_a_line(&mut self, broker: u64, expected: bool) {
        let feed = &mut self.lines.feed;
        let Some(Asking { id, .. }) = feed.asking.take_if(|a| a.broker == broker) else {
            return;
        };
        feed.ended += u32::from(!expected);
        if feed.ended < BROKERS {
            self.lines.put_back(id);
            return;
        }
        feed.ended = 0;
        let why = format!("{BROKERS} brokers in a row have ended over this line");
        self.drop_line(id, Reason::Internal, &why);
    }

    /// Denies, with a record, a line that nobody has read.
    fn drop_line(&mut self, id: LineId, reason: Reason, why: &str) {
        self.counts.answered("denied", Some(reason), "launcher", 1);
        let recorded = self.denial_records.one_more();
        if let Some(take) = self.lines.takes.get(&id.take).filter(|_| recorded) {
            let text = take.text(id.at, SHOWN).unwrap_or_default();
            self.record_unread(&take.dir, &take.command, beginning(&text), reason, why);
        }
        self.lines.over(id);
    }

    /// Records that something in a spool is denied which nobody has read.
    pub(super) fn record_unread(
        &self,
        dir: &Arc<str>,
        command: &str,
        text: String,
        reason: Reason,
        why: &str,
    ) {
        let verdict = Verdict {
            word: "denied",
            reason: Some(reason),
            detail: why,
            ..self.blank()
        };
        let who = Who::Spool(Arc::clone(dir));
        let (agent, at) = (self.options.agent.as_str(), Phases::default());
        audit::record(
            agent,
            Some(&who),
            &Asked::unread(command, text),
            &verdict,
            at,
        );
    }
}

/// As much of a line as a record has.
fn beginning(text: &[u8]) -> String {
    let text = text.get(..SHOWN).unwrap_or(text);
    String::from_utf8_lossy(text).into_owned()
}

/// Whether what failed may well work later: there is no descriptor, or no memory.
fn is_for_now(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}
