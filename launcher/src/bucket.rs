//! How often: a token bucket.

use portcullis_policy::Rate;
use std::time::{Duration, Instant};

/// Fills at a rate, holds at most that rate's count, gives one token an attempt.
#[derive(Debug)]
pub struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn full() -> Self {
        Self {
            tokens: 0.0,
            filled: None,
        }
    }

    /// When there is a token beside so many that are left for others; now, if there is one.
    #[must_use]
    pub fn ready_at(&self, rate: Rate, left: u32, now: Instant) -> Instant {
        let missing = (1.0 + f64::from(left) - self.tokens_at(now, rate)).max(0.0);
        let wait = missing * rate.per.as_secs_f64() / f64::from(rate.count);
        // A day is the longest that any rate has; what cannot be told is asked again then.
        now + Duration::try_from_secs_f64(wait).unwrap_or(Duration::from_secs(86_400))
    }

    fn tokens_at(&self, now: Instant, rate: Rate) -> f64 {
        let most = f64::from(rate.count);
        self.filled.map_or(most, |filled| {
            let new =
                now.saturating_duration_since(filled).as_secs_f64() * most / rate.per.as_secs_f64();
            (self.tokens + new).min(most)
        })
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate) -> bool {
        let now = Instant::now();
        self.tokens = self.tokens_at(now, rate);
        self.filled = Some(now);
        let one = self.tokens >= 1.0;
        if one {
            self.tokens -= 1.0;
        }
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rates_count_at_once() {
        let rate = Rate {
            count: 3,
            per: Duration::from_secs(3600),
        };
        let mut bucket = Bucket::full();
        let taken = (0..10).filter(|_| bucket.take(rate)).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn a_token_is_there_when_it_was_said_to_be() {
        let rate = Rate {
            count: 1,
            per: Duration::from_secs(1),
        };
        let mut bucket = Bucket::full();
        let now = Instant::now();
        assert_eq!(bucket.ready_at(rate, 0, now), now);
        assert!(bucket.take(rate) && !bucket.take(rate));
        let ready = bucket.ready_at(rate, 0, Instant::now());
        assert!(ready > Instant::now());
        std::thread::sleep(ready - Instant::now() + Duration::from_millis(1));
        assert!(bucket.take(rate));
    }
}
