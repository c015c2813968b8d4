//! Denials that the broker answered itself, coalesced for the launcher's audit: however many there are, what is held and
//! told stays small.

use portcullis_policy::argv_hash;
use portcullis_wire::{DenialCount, DeniedLaunch, Excerpt, Launch, Reason};

/// The most kinds of denial, by reason and rule, that are told apart. Further ones are counted under their reason alone, of
/// which there are few, so that the order always fits.
const KINDS: usize = 8;

/// The most bytes of a message.
const MESSAGE: usize = 768;

/// The most bytes of all arguments of a launch together.
const ARGUMENTS: usize = 768;

/// The most bytes of any other text.
const TEXT: usize = 128;

/// What has been denied and not been told.
#[derive(Debug, Default)]
pub struct Denials {
    counts: Vec<DenialCount>,
}

/// What the operator is told of a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The rule that came closest.
    pub rule: Option<String>,
    /// All of it, whatever the policy lets the client know.
    pub message: String,
    /// What was asked for, where it was a launch.
    pub launch: Option<Box<DeniedLaunch>>,
}

/// Who was denied something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The user, as the host numbers it.
    pub uid: u32,
    /// The group, as the host numbers it.
    pub gid: u32,
    /// The process, as the host numbers it.
    pub pid: i32,
}

impl Denials {
    /// Counts one more.
    pub fn add(&mut self, refusal: Refusal, asker: Asker) {
        let reason = refusal.reason;
        let mut rule = refusal
            .rule
            .as_deref()
            .map(|rule| beginning(rule, TEXT).to_owned());
        let known = |counts: &[DenialCount], rule: &Option<String>| {
            counts
                .iter()
                .position(|c| c.reason == reason && c.rule == *rule)
        };
        let mut at = known(&self.counts, &rule);
        if at.is_none() && self.counts.len() >= KINDS {
            rule = None;
            at = known(&self.counts, &rule);
        }
        let entry = count(refusal, rule, asker);
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

/// What is told of a line that was denied: each by itself, and with no process behind it.
#[must_use]
pub fn of_line(refusal: Refusal) -> DenialCount {
    let rule = refusal
        .rule
        .as_deref()
        .map(|rule| beginning(rule, TEXT).to_owned());
    let nobody = Asker {
        uid: 0,
        gid: 0,
        pid: 0,
    };
    count(refusal, rule, nobody)
}

/// One denial.
fn count(refusal: Refusal, rule: Option<String>, asker: Asker) -> DenialCount {
    DenialCount {
        reason: refusal.reason,
        rule,
        count: 1,
        uid: asker.uid,
        gid: asker.gid,
        pid: asker.pid,
        message: beginning(&refusal.message, MESSAGE).to_owned(),
        launch: refusal.launch,
    }
}

/// What is told of a text that is no line.
#[must_use]
pub fn unreadable(command: &str, text: &[u8]) -> Box<DeniedLaunch> {
    let text = String::from_utf8_lossy(text);
    Box::new(DeniedLaunch {
        command: excerpt(command),
        args: Some(Excerpt {
            text: beginning(&text, ARGUMENTS).to_owned(),
            bytes: length(text.len()),
        }),
        netns: None,
        image: None,
        argv: None,
    })
}

/// What is told of a launch that was denied.
#[must_use]
pub fn denied(launch: &Launch) -> Box<DeniedLaunch> {
    let text = |text: &Option<String>| text.as_ref().map(|t| excerpt(t));
    let command = excerpt(&launch.command);
    let args = (!launch.args.is_empty()).then(|| arguments(&launch.args));
    // Of what is whole, the launcher computes it.
    let cut = !command.is_whole() || !args.as_ref().is_none_or(Excerpt::is_whole);
    Box::new(DeniedLaunch {
        command,
        args,
        netns: text(&launch.netns),
        image: text(&launch.image),
        argv: cut.then(|| argv_hash(&launch.command, &launch.args)),
    })
}

fn excerpt(text: &str) -> Excerpt {
    Excerpt {
        text: beginning(text, TEXT).to_owned(),
        bytes: length(text.len()),
    }
}

/// Only as many are joined as there is room for.
fn arguments(args: &[String]) -> Excerpt {
    let mut text = String::new();
    for (at, word) in args.iter().enumerate() {
        if at > 0 {
            text.push('\0');
        }
        text.push_str(beginning(word, ARGUMENTS + 1));
        if text.len() > ARGUMENTS {
            break;
        }
    }
    let separators = args.len().saturating_sub(1);
    Excerpt {
        text: beginning(&text, ARGUMENTS).to_owned(),
        bytes: length(args.iter().map(String::len).sum::<usize>() + separators),
    }
}

fn length(bytes: usize) -> u32 {
    bytes.try_into().unwrap_or(u32::MAX)
}

fn beginning(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{ARGUMENTS, Asker, Denials, Refusal, denied};
    use portcullis_wire::{Launch, Order, Reason, codec, limits};

    const ASKER: Asker = Asker {
        uid: u32::MAX,
        gid: u32::MAX,
        pid: i32::MAX,
    };

    fn refusal(reason: Reason, rule: Option<&str>, message: String) -> Refusal {
        Refusal {
            reason,
            rule: rule.map(str::to_owned),
            message,
            launch: None,
        }
    }

    #[test]
    fn the_same_kind_is_one_entry_with_the_last_ones_message_request_and_peer() {
        let mut denials = Denials::default();
        for n in 0..1000 {
            let launch = denied(&Launch {
                command: format!("command-{n}"),
                ..Launch::default()
            });
            let refusal = Refusal {
                launch: Some(launch),
                ..refusal(Reason::Argument, Some("dnsmasq"), format!("message {n}"))
            };
            denials.add(
                refusal,
                Asker {
                    uid: n,
                    gid: n,
                    pid: 5,
                },
            );
        }
        denials.add(refusal(Reason::Argument, None, "other".into()), ASKER);
        let counts = denials.take();
        assert_eq!(counts.len(), 2);
        let last = &counts[0];
        assert_eq!(
            (last.count, last.uid, last.gid, last.message.as_str()),
            (1000, 999, 999, "message 999")
        );
        let launch = last.launch.as_ref().unwrap();
        assert_eq!(launch.command.text, "command-999");
        assert!(denials.is_empty());
    }

    #[test]
    fn a_denied_launch_is_told_with_every_word_that_there_is_room_for_and_how_long_it_was() {
        let ask = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            denied(&Launch {
                args,
                ..Launch::default()
            })
        };
        assert_eq!(ask(&[]).args, None);
        let short = ask(&["a", "", "b c"]).args.unwrap();
        assert_eq!((short.text.as_str(), short.bytes), ("a\0\0b c", 6));
        let empty = ask(&[""]).args.unwrap();
        assert_eq!((empty.text.as_str(), empty.bytes), ("", 0));
        let long = ask(&["é".repeat(ARGUMENTS).as_str(), "b"]).args.unwrap();
        assert_eq!(long.text, "é".repeat(ARGUMENTS / 2));
        assert_eq!(long.bytes as usize, 2 * ARGUMENTS + 2);
        let many = denied(&Launch {
            args: vec!["x".into(); limits::ARGUMENTS],
            ..Launch::default()
        });
        let many = many.args.unwrap();
        assert_eq!((many.text.len(), many.bytes), (ARGUMENTS, 2047));
    }

    #[test]
    fn a_flood_of_every_kind_fits_into_one_order() {
        let mut denials = Denials::default();
        let long = "ä".repeat(40_000);
        let launch = denied(&Launch {
            command: long.clone(),
            args: vec![long.clone(); 3],
            netns: Some(long.clone()),
            image: Some(long.clone()),
            ..Launch::default()
        });
        for n in 0..1000 {
            for reason in Reason::ALL {
                let rule = format!("rule-{n}-{long}");
                let refusal = Refusal {
                    launch: Some(launch.clone()),
                    ..refusal(*reason, Some(&rule), long.clone())
                };
                denials.add(refusal, ASKER);
            }
        }
        let counts = denials.take();
        assert_eq!(
            counts.iter().map(|c| u64::from(c.count)).sum::<u64>(),
            1000 * Reason::ALL.len() as u64
        );
        let order = codec::encode_unbounded(&Order::Denied(counts)).unwrap();
        assert!(order.len() <= limits::DATAGRAM, "{}", order.len());
    }
}
