//! How often: a token bucket.

use portcullis_policy::Rate;
use std::time::Instant;

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

    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate) -> bool {
        let (now, most) = (Instant::now(), f64::from(rate.count));
        self.tokens = self.filled.map_or(most, |filled| {
            let new = now.duration_since(filled).as_secs_f64() * most / rate.per.as_secs_f64();
            (self.tokens + new).min(most)
        });
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
    use std::time::Duration;

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
}
