//! Denials that the broker answered itself, coalesced for the launcher's audit: however many there are, what is held and
//! told stays small.

use portcullis_wire::{DenialCount, Reason};

/// The most kinds of denial, by reason and rule, that are told apart. Further ones are counted under their reason alone, of
/// which there are few, so that the order always fits.
const KINDS: usize = 32;

/// The most bytes of a message.
const MESSAGE: usize = 1024;

/// What has been denied and not been told.
#[derive(Debug, Default)]
pub struct Denials {
    counts: Vec<DenialCount>,
}

/// Who was denied something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The user, as the host numbers it.
    pub uid: u32,
    /// The process, as the host numbers it.
    pub pid: i32,
}

impl Denials {
    /// Counts one more.
    pub fn add(&mut self, reason: Reason, rule: Option<String>, mut message: String, asker: Asker) {
        cut(&mut message);
        let known = |counts: &[DenialCount], rule: &Option<String>| {
            counts
                .iter()
                .position(|c| c.reason == reason && c.rule == *rule)
        };
        let mut rule = rule;
        let mut at = known(&self.counts, &rule);
        if at.is_none() && self.counts.len() >= KINDS {
            rule = None;
            at = known(&self.counts, &rule);
        }
        let entry = DenialCount {
            reason,
            rule,
            count: 1,
            uid: asker.uid,
            pid: asker.pid,
            message,
        };
        match at.and_then(|at| self.counts.get_mut(at)) {
            Some(last) => {
                let count = last.count.saturating_add(1);
                *last = DenialCount { count, ..entry };
            }
            None => self.counts.push(entry),
        }
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Takes all that is to be told.
    #[must_use]
    pub fn take(&mut self) -> Vec<DenialCount> {
        std::mem::take(&mut self.counts)
    }
}

fn cut(message: &mut String) {
    let mut end = MESSAGE.min(message.len());
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    message.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::{Asker, Denials};
    use portcullis_wire::{Order, Reason, codec, limits};

    const ASKER: Asker = Asker {
        uid: u32::MAX,
        pid: i32::MAX,
    };

    #[test]
    fn the_same_kind_is_one_entry_with_the_last_ones_message_and_peer() {
        let mut denials = Denials::default();
        for n in 0..1000 {
            denials.add(
                Reason::Argument,
                Some("dnsmasq".into()),
                format!("message {n}"),
                Asker { uid: n, pid: 5 },
            );
        }
        denials.add(Reason::Argument, None, "other".into(), ASKER);
        let counts = denials.take();
        assert_eq!(counts.len(), 2);
        assert_eq!(
            (counts[0].count, counts[0].uid, counts[0].message.as_str()),
            (1000, 999, "message 999")
        );
        assert!(denials.is_empty());
    }

    #[test]
    fn a_flood_of_every_kind_fits_into_one_order() {
        let mut denials = Denials::default();
        for n in 0..10_000 {
            for reason in Reason::ALL {
                denials.add(
                    *reason,
                    Some(format!("rule-{n}")),
                    "ä".repeat(40_000),
                    ASKER,
                );
            }
        }
        let counts = denials.take();
        assert_eq!(
            counts.iter().map(|c| u64::from(c.count)).sum::<u64>(),
            10_000 * Reason::ALL.len() as u64
        );
        let order = codec::encode_unbounded(&Order::Denied(counts)).unwrap();
        assert!(order.len() <= limits::DATAGRAM, "{}", order.len());
    }
}
