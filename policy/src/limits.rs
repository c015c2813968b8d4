//! How much an agent may ask for, and how often.

use std::time::Duration;

/// The limits of one agent's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Side containers at once, in any state. Counted by the launcher. Default 1000.
    pub running: u32,
    /// Attempts to launch. Default 600 a minute.
    pub launches: Rate,
    /// Requests under way at once. Default 64.
    pub in_flight: u32,
}

/// So many in such a time, as `"600/min"` is written in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least 1.
    pub count: u32,
    /// In how long: a second, a minute or an hour.
    pub per: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            running: 1000,
            launches: Rate {
                count: 600,
                per: Duration::from_secs(60),
            },
            in_flight: 64,
        }
    }
}

impl Rate {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let per = Duration::from_secs(match unit {
            "s" => 1,
            "min" => 60,
            "hour" => 3600,
            _ => return None,
        });
        let count = count.parse().ok().filter(|count| *count > 0)?;
        Some(Self { count, per })
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;
    use std::time::Duration;

    #[test]
    fn a_rate_is_a_number_per_second_minute_or_hour() {
        let rate = |count, secs| {
            Some(Rate {
                count,
                per: Duration::from_secs(secs),
            })
        };
        assert_eq!(Rate::parse("600/min"), rate(600, 60));
        assert_eq!(Rate::parse("1/s"), rate(1, 1));
        assert_eq!(Rate::parse("9/hour"), rate(9, 3600));
        for bad in [
            "",
            "0/s",
            "+5/s",
            "5",
            "5/",
            "/s",
            "5/day",
            " 5/s",
            "5 /s",
            "9999999999/s",
        ] {
            assert_eq!(Rate::parse(bad), None, "{bad}");
        }
    }
}
