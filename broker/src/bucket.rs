//! A token bucket: how often something may happen.

use portcullis_policy::Rate;
use std::time::{Duration, Instant};

/// A bucket that holds as many tokens as the rate allows in its time, is full at the start, and fills evenly.
#[derive(Debug)]
pub struct Bucket {
    /// One token is `per` nanoseconds' worth of credit, and each nanosecond brings `count`: all in whole numbers. Below zero
    /// is what was reserved before it was there.
    credit: i128,
    rate: Rate,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        let mut bucket = Self {
            credit: 0,
            rate,
            filled: now,
        };
        bucket.credit = bucket.capacity();
        bucket
    }

    /// Takes one token.
    ///
    /// # Errors
    /// How long it takes until there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        let rest = self.credit - self.token();
        let wait = self.until_paid(rest);
        if wait.is_zero() {
            self.credit = rest;
            Ok(())
        } else {
            Err(wait)
        }
    }

    /// Takes so many tokens, whether there are as many or not, and says how long it takes until there are. Whoever comes
    /// later waits for longer.
    pub fn reserve(&mut self, tokens: u32, now: Instant) -> Duration {
        self.fill(now);
        let cost = self.token().saturating_mul(i128::from(tokens));
        self.credit = self.credit.saturating_sub(cost);
        self.until_paid(self.credit)
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = nanos(now.saturating_duration_since(self.filled));
        let gained = elapsed.saturating_mul(i128::from(self.rate.count));
        self.credit = self.credit.saturating_add(gained).min(self.capacity());
        self.filled = self.filled.max(now);
    }

    /// How long it takes until that credit is no longer below zero.
    fn until_paid(&self, credit: i128) -> Duration {
        let owed = credit.min(0).unsigned_abs();
        let nanos = owed.div_ceil(u128::from(self.rate.count.max(1)));
        Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }

    fn token(&self) -> i128 {
        nanos(self.rate.per)
    }

    fn capacity(&self) -> i128 {
        self.token().saturating_mul(i128::from(self.rate.count))
    }
}

fn nanos(duration: Duration) -> i128 {
    duration.as_nanos().try_into().unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::Bucket;
    use portcullis_policy::Rate;
    use std::time::{Duration, Instant};

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn as_many_as_the_rate_says_at_once_and_then_evenly() {
        let start = Instant::now();
        let mut bucket = Bucket::new(
            Rate {
                count: 600,
                per: MINUTE,
            },
            start,
        );
        assert_eq!(
            (0..1000).filter(|_| bucket.take(start).is_ok()).count(),
            600
        );
        assert_eq!(bucket.take(start), Err(Duration::from_millis(100)));
        let later = start + Duration::from_millis(250);
        assert_eq!((0..10).filter(|_| bucket.take(later).is_ok()).count(), 2);
        assert_eq!(bucket.take(later), Err(Duration::from_millis(50)));
        let much_later = start + 100 * MINUTE;
        assert_eq!(
            (0..1000)
                .filter(|_| bucket.take(much_later).is_ok())
                .count(),
            600
        );
    }

    #[test]
    fn no_time_is_gained_by_asking_often_or_by_a_clock_that_stands() {
        let start = Instant::now();
        let mut bucket = Bucket::new(
            Rate {
                count: 3,
                per: MINUTE,
            },
            start,
        );
        let taken = (0..60_000)
            .filter(|ms| bucket.take(start + Duration::from_millis(*ms)).is_ok())
            .count();
        assert_eq!(taken, 5);
        assert!(bucket.take(start).is_err());
    }

    #[test]
    fn what_is_reserved_is_waited_for_in_turn() {
        let start = Instant::now();
        let rate = Rate {
            count: 600,
            per: MINUTE,
        };
        let mut bucket = Bucket::new(rate, start);
        assert_eq!(bucket.reserve(600, start), Duration::ZERO);
        assert_eq!(bucket.reserve(5, start), Duration::from_millis(500));
        assert_eq!(bucket.reserve(1, start), Duration::from_millis(600));
        assert_eq!(bucket.reserve(0, start), Duration::from_millis(600));
        assert_eq!(bucket.take(start), Err(Duration::from_millis(700)));
        let later = start + Duration::from_millis(250);
        assert_eq!(bucket.reserve(1, later), Duration::from_millis(450));
        let paid = start + Duration::from_millis(700);
        assert_eq!(bucket.reserve(0, paid), Duration::ZERO);
        assert_eq!(bucket.take(paid), Err(Duration::from_millis(100)));
        // However long ago: no more than fits.
        let much_later = start + 100 * MINUTE;
        assert_eq!(bucket.reserve(600, much_later), Duration::ZERO);
        assert_eq!(bucket.reserve(1, much_later), Duration::from_millis(100));
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
        let start = Instant::now();
        let mut bucket = Bucket::new(
            Rate {
                count: u32::MAX,
                per: Duration::from_secs(3600),
            },
            start,
        );
        assert!(bucket.take(start + Duration::from_secs(1 << 40)).is_ok());
        for _ in 0..3 {
            bucket.reserve(u32::MAX, start);
        }
        assert!(bucket.take(start).is_err());
    }
}
