//! What becomes of the lines in the journal: each is read and judged by the broker, then a request like any other, and over
//! when it is known what came of it. Nobody waits for an answer, so what may still come right is tried again here.

use super::feed::Feed;
use super::journal::Take;
use super::queue::{LineId, Queue};
use super::taker::MOST;
use crate::audit::Verdict;
use crate::service::Service;
use crate::table::{Arrival, Pending, ReplyTo};
use portcullis_policy::Rate;
use portcullis_wire::{Reason, Reply, limits};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How often a line that failed is tried again, and the pause before the first time, which doubles.
const RETRIES: u32 = 5;
const RETRY: Duration = Duration::from_secs(1);
/// The pause before a line for which there was no room is tried again, which doubles up to the second.
pub(super) const BUSY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A line that is a request now, and how it has fared.
#[derive(Debug)]
pub(crate) struct Line {
    id: LineId,
    failed: u32,
    busy: u32,
    /// It has its token of the policy's rate, which each attempt takes.
    paid: bool,
}

impl Line {
    pub(super) fn new(id: LineId) -> Self {
        Self {
            id,
            failed: 0,
            busy: 0,
            paid: false,
        }
    }
}

/// The lines that are not over.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(super) takes: BTreeMap<u64, Take>,
    pub(super) queue: Queue,
    pub(super) feed: Feed,
    pub(super) under_way: usize,
    pub(super) parked: Vec<(Instant, Pending)>,
    /// The newest request for each name, while there are lines that could be older.
    newest: HashMap<String, Arrival>,
}

impl Pending {
    /// Whether a line needs no further token of the policy's rate.
    pub(super) fn is_paid(&self) -> bool {
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
        self.queue.len() + self.under_way + self.parked.len() + self.feed.asking()
    }

    /// Whether more may be taken.
    pub(super) fn have_room(&self) -> bool {
        let bytes: u64 = self.takes.values().map(|take| take.size).sum();
        self.waiting() < MOST && bytes < 2 * limits::SPOOL
    }

    /// How long a line is in bytes.
    pub(super) fn length(&self, id: LineId) -> usize {
        self.takes.get(&id.take).map_or(0, |t| t.length(id.at))
    }

    /// A line that was taken out of the queue is the next one again.
    pub(super) fn put_back(&mut self, id: LineId) {
        if let Some(take) = self.takes.get(&id.take) {
            self.queue.put_back(&take.dir, id);
        }
    }

    /// A line is over.
    pub(super) fn over(&mut self, id: LineId) {
        let Some(take) = self.takes.get_mut(&id.take) else {
            return;
        };
        if let Err(error) = take.over(id.at) {
            let spool = &*take.dir;
            tracing::error!(
                spool, %error,
                "the journal cannot be written: a line that is over will be taken up again after a restart"
            );
        }
        if take.is_over() {
            self.takes.remove(&id.take);
        }
    }
}

impl Service {
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
        // A taker may have some that nobody here knows of yet.
        if self.lines.waiting() == 0 && !self.spools.looking() {
            self.lines.newest.clear();
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

fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(2u32.saturating_pow(times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Journal;

    #[test]
    fn a_take_whose_file_is_gone_is_forgotten_when_its_lines_are_over() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let mut take = journal.write("dnsmasq", "/d", b"a\nb\n").unwrap();
        journal.finish(&mut take).unwrap();
        let number = take.number;
        std::fs::remove_file(journal.path().join(number.to_string())).unwrap();
        let mut lines = Lines::default();
        lines.add(take);
        for at in 0..2 {
            assert_eq!(lines.takes.len(), 1);
            lines.over(LineId { take: number, at });
        }
        assert!(lines.takes.is_empty());
    }
}
