//! Records that an agent can have written as often as it likes: so many of them are, and the others are counted. What floods
//! the log must not push the records of launches out of it.

use crate::bucket::Bucket;
use portcullis_policy::Rate;
use std::time::{Duration, Instant};

/// The pause between two records of how many were not written.
const UNRECORDED: Duration = Duration::from_secs(1);

/// Which records of one kind are written.
#[derive(Debug)]
pub(crate) struct Sparse {
    verdict: &'static str,
    rate: Rate,
    bucket: Bucket,
    unrecorded: u64,
    told: Instant,
}

impl Sparse {
    /// At most so many of that verdict in two seconds.
    pub(crate) fn new(verdict: &'static str, count: u32) -> Self {
        Self {
            verdict,
            rate: Rate {
                count,
                per: Duration::from_secs(2),
            },
            bucket: Bucket::full(),
            unrecorded: 0,
            told: Instant::now(),
        }
    }

    /// Whether the next one is written; else it is counted.
    pub(crate) fn one_more(&mut self) -> bool {
        let recorded = self.bucket.take(self.rate);
        self.unrecorded += u64::from(!recorded);
        recorded
    }

    /// Counts some that are not.
    pub(crate) fn count(&mut self, number: u32) {
        self.unrecorded += u64::from(number);
    }

    /// Records how many were counted, at most once a second; says when to look again.
    pub(crate) fn tell_unrecorded(&mut self, agent: &str, now: Instant) -> Option<Instant> {
        if self.unrecorded == 0 {
            return None;
        }
        if now < self.told + UNRECORDED {
            return Some(self.told + UNRECORDED);
        }
        self.told = now;
        let count = std::mem::take(&mut self.unrecorded);
        tracing::warn!(
            target: "portcullis::audit",
            agent,
            verdict = self.verdict,
            count,
            by = "launcher",
            "records were counted, not written: too many"
        );
        None
    }
}
