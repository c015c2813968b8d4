//! What becomes of the lines in the journal: each is read and judged by the broker, then a request like any other, and over
//! when it is known what came of it. Nobody waits for an answer, so what may still come right is tried again here.

use super::journal::Take;
use super::queue::{LineId, Queue};
use super::taker::MOST;
use crate::audit::{self, Asked, Phases, Verdict, Who, now};
use crate::bucket::Bucket;
use crate::service::Service;
use crate::table::{Arrival, Pending, ReplyTo};
use portcullis_policy::Rate;
use portcullis_wire::{
    Attach, Body, DenialCount, Directive, Launch, Reason, Reply, Request, codec, limits,
};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many lines wait to be tried again before no new one is looked at.
const PARKED: usize = 1024;
/// How often a line that failed is tried again, and the pause before the first time, which doubles.
const RETRIES: u32 = 5;
const RETRY: Duration = Duration::from_secs(1);
/// The pause before a line for which there was no room is tried again, which doubles up to the second.
const BUSY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How many brokers may end over a line before it is not given to another one.
const BROKERS: u32 = 3;
/// How many lines the broker is given: an agent that fills its files costs others no more than that.
const PACE: Rate = Rate {
    count: 1000,
    per: Duration::from_secs(1),
};
/// So many lines in a row that need no broker, then everybody else.
const TURN: usize = 64;

/// A line that is a request now, and how it has fared.
#[derive(Debug)]
pub(crate) struct Line {
    id: LineId,
    failed: u32,
    busy: u32,
    /// It has its token of the policy's rate, which each attempt takes.
    paid: bool,
}

/// The line that the broker has.
#[derive(Debug)]
struct Asking {
    id: LineId,
    number: u64,
    broker: u64,
}

/// The lines that are not over.
#[derive(Debug)]
pub(crate) struct Lines {
    takes: BTreeMap<u64, Take>,
    queue: Queue,
    asking: Option<Asking>,
    /// How many brokers have ended over the line at the queue's head.
    ended: u32,
    next: u64,
    pace: Bucket,
    under_way: usize,
    parked: Vec<(Instant, Pending)>,
    /// The newest request for each name, while there are lines that could be older.
    newest: HashMap<String, Arrival>,
    /// Lines that are given to nobody before then: no broker had room.
    wait_until: Option<Instant>,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            takes: BTreeMap::new(),
            queue: Queue::default(),
            asking: None,
            ended: 0,
            next: 1,
            pace: Bucket::full(),
            under_way: 0,
            parked: Vec::new(),
            newest: HashMap::new(),
            wait_until: None,
        }
    }
}

impl Pending {
    /// Whether a line needs no further token of the policy's rate.
    fn is_paid(&self) -> bool {
        matches!(&self.to, ReplyTo::Line(line) if line.paid)
    }
}

impl Lines {
    /// Adds what was taken.
    pub(super) fn add(&mut self, take: Take) {
        let number = take.number;
        let ids = take.waiting().iter().map(|at| LineId {
            take: number,
            at: *at,
        });
        self.queue.add(&take.dir, ids);
        self.takes.insert(number, take);
    }

    /// How many are not over.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len() + self.under_way + self.parked.len() + usize::from(self.asking.is_some())
    }

    /// Whether more may be taken.
    pub(super) fn have_room(&self) -> bool {
        let bytes: u64 = self.takes.values().map(|take| take.size).sum();
        self.waiting() < MOST && bytes < 2 * limits::SPOOL
    }

    /// A line that was taken out of the queue is the next one again.
    fn put_back(&mut self, id: LineId) {
        if let Some(take) = self.takes.get(&id.take) {
            self.queue.put_back(&take.dir, id);
        }
    }

    /// A line is over.
    fn over(&mut self, id: LineId) {
        let Some(take) = self.takes.get_mut(&id.take) else {
            return;
        };
        match take.over(id.at) {
            Ok(false) => {}
            Ok(true) => {
                self.takes.remove(&id.take);
            }
            Err(error) => {
                let spool = &*take.dir;
                tracing::error!(
                    spool, %error,
                    "the journal cannot be written: a line that is over will be taken up again after a restart"
                );
            }
        }
        if self.takes.is_empty() {
            self.newest.clear();
        }
    }
}

impl Service {
    /// Hands lines on as far as there is room for them; says when to look again.
    pub(crate) fn hand_lines_on(&mut self, now: Instant) -> Option<Instant> {
        if self.stopping.is_some() || !self.recovered {
            return None;
        }
        let due = self.try_parked(now);
        let waits = self.lines.wait_until.filter(|until| *until > now);
        let fed = if waits.is_some() {
            waits
        } else {
            self.feed(now)
        };
        due.into_iter().chain(fed).min()
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
            if self.lines.asking.is_some()
                || self.lines.parked.len() >= PARKED
                || !self.have_room_for_a_line()
            {
                return None;
            }
            let length = self
                .lines
                .takes
                .get(&id.take)
                .map_or(0, |t| t.length(id.at));
            if length > limits::LINE {
                self.lines.queue.take_first();
                let why = format!(
                    "the line has {length} bytes; at most {} are read",
                    limits::LINE
                );
                self.drop_line(id, Reason::TooLarge, &why);
                self.lines.over(id);
                continue;
            }
            let paced = self.lines.pace.ready_at(PACE, 0, now);
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
                    let spool = &*take.dir;
                    tracing::error!(spool, %error, "a line cannot be read in the journal");
                    if is_for_now(&error) {
                        let until = now + BUSY.1;
                        self.lines.wait_until = Some(until);
                        return Some(until);
                    }
                    self.lines.queue.take_first();
                    let why = format!("it cannot be read in the journal: {error}");
                    self.drop_line(id, Reason::Internal, &why);
                    self.lines.over(id);
                    continue;
                }
            };
            let number = self.lines.next;
            let directive = Directive::Line {
                number,
                dir: take.dir.to_string(),
                command: take.command.to_string(),
                text,
            };
            if !broker.broker.direct(&directive) {
                return Some(now + BUSY.0);
            }
            let broker = broker.key;
            self.lines.pace.take(PACE);
            self.lines.next += 1;
            self.lines.queue.take_first();
            self.lines.asking = Some(Asking { id, number, broker });
            return None;
        }
        Some(now)
    }

    /// The line that this broker has, if it is that one.
    fn asked(&mut self, broker: u64, number: u64) -> Result<LineId, String> {
        let asked = |a: &mut Asking| a.broker == broker && a.number == number;
        let asking = self.lines.asking.take_if(asked);
        let asking = asking.ok_or_else(|| "answered a line that it was not given".to_owned())?;
        self.lines.ended = 0;
        Ok(asking.id)
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
        let launch = match codec::decode_request(datagram) {
            Ok(Request {
                body: Body::Launch(launch),
                ..
            }) if is_a_line(&launch) => launch,
            // The broker ends for it, and counts as one that has ended over the line.
            _ => return Err("read a line as what no line can say".to_owned()),
        };
        let id = self.asked(broker, number)?;
        let Some(take) = self.lines.takes.get(&id.take) else {
            return Ok(());
        };
        let (dir, after) = (Arc::clone(&take.dir), take.after);
        let pending = Pending {
            to: ReplyTo::Line(Line {
                id,
                failed: 0,
                busy: 0,
                paid: false,
            }),
            id: number,
            arrival: (after, id.take, id.at + 1),
            asked: Asked::of(&launch),
            launch,
            who: Who::Spool(dir),
            at: Phases {
                received: now(),
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
        let id = self.asked(broker, number)?;
        if generation != self.generation() {
            // By the policy that was reloaded meanwhile.
            self.lines.put_back(id);
            return Ok(());
        }
        if denial.reason == Reason::PolicyUnavailable {
            // That one has no policy, and there is one: a broker is to come that has it.
            self.lines.put_back(id);
            self.lines.wait_until = Some(Instant::now() + BUSY.1);
            return Ok(());
        }
        let reason = Some(denial.reason);
        self.counts.answered("denied", reason, "broker", 1);
        let spool = self.lines.takes.get(&id.take).map(|take| &*take.dir);
        if self.denial_records.one_more() {
            let agent = self.options.agent.as_str();
            audit::record_broker(agent, spool, generation, denial);
        }
        self.lines.over(id);
        Ok(())
    }

    /// A broker has ended: the line that it had is given to the next one, unless it may be what ended them.
    pub(crate) fn broker_had_a_line(&mut self, broker: u64, expected: bool) {
        let Some(Asking { id, .. }) = self.lines.asking.take_if(|a| a.broker == broker) else {
            return;
        };
        self.lines.ended += u32::from(!expected);
        if self.lines.ended < BROKERS {
            self.lines.put_back(id);
            return;
        }
        self.lines.ended = 0;
        let why = format!("{BROKERS} brokers in a row have ended over this line");
        self.drop_line(id, Reason::Internal, &why);
        self.lines.over(id);
    }

    /// Records that a line is denied which nobody has read.
    fn drop_line(&mut self, id: LineId, reason: Reason, why: &str) {
        self.counts.answered("denied", Some(reason), "launcher", 1);
        if !self.denial_records.one_more() {
            return;
        }
        let Some(take) = self.lines.takes.get(&id.take) else {
            return;
        };
        let text = take.text(id.at, 1024).unwrap_or_default();
        let launch = Launch {
            command: take.command.to_string(),
            args: vec![String::from_utf8_lossy(&text).into_owned()],
            ..Launch::default()
        };
        let verdict = Verdict {
            word: "denied",
            reason: Some(reason),
            detail: why,
            ..self.blank()
        };
        let who = Who::Spool(Arc::clone(&take.dir));
        let agent = self.options.agent.as_str();
        audit::record(
            agent,
            Some(&who),
            &Asked::of(&launch),
            &verdict,
            Phases::default(),
        );
    }

    /// Takes a token of the policy's rate for a request, where it has none yet.
    pub(crate) fn pay(&mut self, pending: &mut Pending, rate: Rate) -> bool {
        match &mut pending.to {
            ReplyTo::Client(_) => self.bucket.take(rate),
            ReplyTo::Line(line) => {
                line.paid = line.paid || self.bucket.take(rate);
                line.paid
            }
        }
    }

    /// It is known what came of a line, for now.
    pub(crate) fn line_is_answered(&mut self, mut pending: Pending, reply: &Reply) {
        self.lines.under_way = self.lines.under_way.saturating_sub(1);
        let ReplyTo::Line(line) = &mut pending.to else {
            return;
        };
        let id = line.id;
        let pause = match reply {
            Reply::Busy { .. } => {
                line.busy += 1;
                doubled(BUSY.0, line.busy - 1).min(BUSY.1)
            }
            Reply::Denied {
                reason: Reason::PolicyUnavailable,
                ..
            } => BUSY.1,
            Reply::Failed(_) if line.failed < RETRIES => {
                line.failed += 1;
                line.paid = false;
                doubled(RETRY, line.failed - 1)
            }
            Reply::Failed(failure) => {
                let reason = failure.reason;
                let detail = format!(
                    "it was tried {} times; last: {}",
                    RETRIES + 1,
                    failure.message
                );
                self.end_line(&pending, "given-up", Some(reason), &detail);
                return;
            }
            // Launched, or denied: asking again would change nothing.
            _ => return self.lines.over(id),
        };
        let newest = pending
            .plan
            .as_ref()
            .and_then(|p| self.lines.newest.get(&p.name));
        if newest.is_some_and(|newest| *newest > pending.arrival) {
            return self.end_line(&pending, "superseded", None, "a newer request has the name");
        }
        self.lines.parked.push((Instant::now() + pause, pending));
    }

    /// Whether a newer request than this line was allowed for the name.
    pub(crate) fn is_superseded(&self, name: &str, pending: &Pending) -> bool {
        let newest = self.lines.newest.get(name);
        matches!(pending.to, ReplyTo::Line(_))
            && newest.is_some_and(|newest| *newest > pending.arrival)
    }

    /// Ends such a line.
    pub(crate) fn supersede(&mut self, pending: &Pending) {
        self.lines.under_way = self.lines.under_way.saturating_sub(1);
        self.end_line(pending, "superseded", None, "a newer request has the name");
    }

    /// A request was allowed: lines that wait to be tried again for the same name are older, and the name is not theirs.
    pub(crate) fn supersede_lines(&mut self, name: &str, arrival: Arrival) {
        if self.lines.waiting() == 0 {
            return;
        }
        // A name that is forgotten may get an older line's launch; remembering all would take memory without end.
        if self.lines.newest.len() >= MOST {
            self.lines.newest.clear();
        }
        let newest = self.lines.newest.entry(name.to_owned()).or_default();
        *newest = arrival.max(*newest);
        let older = |(_, parked): &mut (Instant, Pending)| {
            parked.arrival < arrival && parked.plan.as_ref().is_some_and(|p| p.name == name)
        };
        for (_, pending) in self.lines.parked.extract_if(.., older).collect::<Vec<_>>() {
            self.end_line(&pending, "superseded", None, "a newer request has the name");
        }
    }

    /// Records how a line ended that was tried again in vain, or is not any more.
    fn end_line(
        &mut self,
        pending: &Pending,
        word: &'static str,
        reason: Option<Reason>,
        detail: &str,
    ) {
        self.audit(pending, |verdict| Verdict {
            word,
            reason,
            detail,
            ..verdict
        });
        self.counts.answered(word, reason, "launcher", 1);
        if let ReplyTo::Line(line) = &pending.to {
            self.lines.over(line.id);
        }
    }
}

/// Whether what failed may well work later: there is no descriptor, or no memory.
fn is_for_now(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Whether a line can say this.
fn is_a_line(launch: &Launch) -> bool {
    launch.image.is_none()
        && launch.env.is_empty()
        && launch.attach == Attach::None
        && !launch.dry_run
}

fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(2u32.saturating_pow(times))
}
