//! A token bucket: how often something may happen.

use portcullis_policy::Rate;
use std::time::{Duration, Instant};

/// A bucket that holds as many tokens as the rate allows in its time, is full at the start, and fills evenly.
#[derive(Debug)]
pub struct Bucket {
    /// One token is `per` nanoseconds' worth of credit, and each nanosecond brings `count`: all in whole numbers.
    credit: u128,
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
        let elapsed = now.saturating_duration_since(self.filled).as_nanos();
        let gained = elapsed.saturating_mul(u128::from(self.rate.count));
        self.credit = self.credit.saturating_add(gained).min(self.capacity());
        self.filled = self.filled.max(now);
        let token = self.rate.per.as_nanos();
        match self.credit.checked_sub(token) {
            Some(rest) => {
                self.credit = rest;
                Ok(())
            }
            None => {
                let nanos = (token - self.credit).div_ceil(u128::from(self.rate.count.max(1)));
                Err(Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX)))
            }
        }
    }

    fn capacity(&self) -> u128 {
        self.rate.per.as_nanos() * u128::from(self.rate.count)
    }
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
    }
}
