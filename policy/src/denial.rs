//! Why a request is not allowed, for the one who asked and for the audit record.
//!
//! What a client sent stands in a message escaped and cut, so that a message is one line whatever was sent.

use crate::Peer;
use crate::arguments::{ArgumentCause, Arguments, Entry};
use crate::bindings::Slot;
use crate::pattern::{Pattern, Token};
use crate::rule::{Cause, Mismatch, Rule};
use portcullis_wire::{Launch, Reason, Reply};

/// A request that the policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// The rule that came closest.
    pub rule: Option<String>,
    /// One line for a person. What the client sent stands in it escaped and cut.
    pub message: String,
    /// Whether the client is told no more than the code.
    pub(crate) code_alone: bool,
}

impl Denial {
    /// A denial for a reason outside any rule: a limit, a peer that is gone, a policy that is missing.
    #[must_use]
    pub fn new(reason: Reason, rule: Option<&str>, message: &str) -> Self {
        let (rule, message) = (rule.map(str::to_owned), message.to_owned());
        Self {
            reason,
            rule,
            message,
            code_alone: false,
        }
    }

    /// What the client is told: the code alone where the policy says `detail = "code"`.
    #[must_use]
    pub fn reply(&self) -> Reply {
        if self.code_alone {
            return Reply::Denied {
                reason: self.reason,
                rule: None,
                message: self.reason.text().to_owned(),
            };
        }
        Reply::Denied {
            reason: self.reason,
            rule: self.rule.clone(),
            message: self.message.clone(),
        }
    }
}

/// The longest that a quoted text becomes, in characters.
const QUOTED: usize = 200;

/// A text in quotes, escaped, and cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    let mut length = 0;
    for character in text.chars() {
        let escape = character.escape_debug();
        length += escape.len();
        if length > QUOTED {
            quoted.push('…');
            break;
        }
        if portcullis_wire::hidden::is_hidden(character) && escape.len() == 1 {
            quoted.extend(character.escape_unicode());
        } else {
            quoted.extend(escape);
        }
    }
    quoted.push('"');
    quoted
}

/// What did not match, in one line.
pub(crate) fn describe(
    mismatch: &Mismatch<'_>,
    rule: &Rule,
    request: &Launch,
    peer: &Peer,
) -> String {
    let list = |patterns: &[Pattern]| {
        let texts: Vec<String> = patterns.iter().take(4).map(|p| quoted(&p.text)).collect();
        let more = if patterns.len() > 4 { ", …" } else { "" };
        texts.join(" or ") + more
    };
    let image = || quoted(request.image.as_deref().unwrap_or_default());
    let netns = || quoted(request.netns.as_deref().unwrap_or_default());
    match &mismatch.cause {
        Cause::ImageNotNamed => format!("an image has to be named, of {}", list(&rule.images)),
        Cause::Image => format!("the image {} is not {}", image(), list(&rule.images)),
        Cause::NetnsMissing => format!(
            "a network namespace is required, {}; the request has none",
            list(&rule.netns)
        ),
        Cause::NetnsUnwanted => format!(
            "the rule is for no network namespace; the request has {}",
            netns()
        ),
        Cause::NetnsForm => format!(
            "{} is no plain name of a network namespace under /run/netns",
            netns()
        ),
        Cause::Netns => format!(
            "the network namespace {} is not {}",
            netns(),
            list(&rule.netns)
        ),
        Cause::Argument(cause) => {
            let list = &rule.arguments;
            let text = in_list("argument", *cause, list, &request.args, mismatch, rule);
            text + unquoted(*cause, peer)
        }
        Cause::Environment(cause) => {
            let list = &rule.environment;
            in_list(
                "environment entry",
                *cause,
                list,
                &request.env,
                mismatch,
                rule,
            )
        }
        Cause::EnvironmentTwice(at) => format!(
            "environment entry {}, {}, is there twice",
            at + 1,
            quoted(request.env.get(*at).map_or("", String::as_str))
        ),
        Cause::Name(name) => format!("{} is no valid name for a container", quoted(name)),
        Cause::Mount(path) => format!(
            "{} cannot be mounted: not a normal path, or it has `:` or `,` in it",
            quoted(path)
        ),
        Cause::Misplaced(target, other) => format!(
            "{} cannot be mounted: another mount of the rule is at {}",
            quoted(target),
            quoted(other)
        ),
    }
}

/// How an argument of a line may have come about that nobody gave.
fn unquoted(cause: ArgumentCause, peer: &Peer) -> &'static str {
    match (cause, peer) {
        (
            ArgumentCause::NotAllowed(_)
            | ArgumentCause::TooMany(..)
            | ArgumentCause::Expected { .. }
            | ArgumentCause::Surplus(_),
            Peer::Spool { .. },
        ) => "; a wrapper that does not quote breaks an argument with a space into several",
        _ => "",
    }
}

fn in_list(
    noun: &str,
    cause: ArgumentCause,
    list: &Arguments,
    given: &[String],
    mismatch: &Mismatch<'_>,
    rule: &Rule,
) -> String {
    let argument = |at: usize| quoted(given.get(at).map_or("", String::as_str));
    let values = |pattern: &Pattern| known_values(pattern, mismatch, rule);
    match cause {
        ArgumentCause::NotAllowed(at) => {
            let text = given.get(at).map_or("", String::as_str);
            let hint = match closest(list, text) {
                Some((_, pattern)) => {
                    format!(
                        "; the rule has {}{}",
                        quoted(&pattern.text),
                        values(pattern)
                    )
                }
                None => String::new(),
            };
            format!("{noun} {}, {}, is not allowed{hint}", at + 1, argument(at))
        }
        ArgumentCause::TooMany(at, entry) => {
            let max = list.entries.get(entry).map_or(0, |entry| entry.max);
            let times = if max == 1 {
                "once".to_owned()
            } else {
                format!("{max} times")
            };
            format!(
                "{noun} {}, {}, is allowed {times} at most",
                at + 1,
                argument(at)
            )
        }
        ArgumentCause::Expected {
            at,
            entry,
            alternative,
            word,
        } => {
            let alternatives = list.entries.get(entry).map(|entry| &*entry.alternatives);
            // Where nothing has matched yet, any alternative fits.
            let fits = alternatives.unwrap_or_default().iter().enumerate();
            let fits = fits.filter(|(number, _)| word == 0 || *number == alternative);
            let fits: Vec<String> = fits
                .filter_map(|(_, sequence)| sequence.get(word))
                .map(|pattern| quoted(&pattern.text) + &values(pattern))
                .take(4)
                .collect();
            format!(
                "{noun} {}, {}, does not fit: the order is fixed, and {} fits there",
                at + 1,
                argument(at),
                fits.join(" or ")
            )
        }
        ArgumentCause::Surplus(at) => format!(
            "{noun} {}, {}, does not fit: the order is fixed, and nothing fits there",
            at + 1,
            argument(at)
        ),
        ArgumentCause::Missing(entry) => {
            let Some(entry) = list.entries.get(entry) else {
                return format!("a required {noun} is missing");
            };
            let shown = entry.alternatives.first().map(|sequence| {
                let words: Vec<String> = sequence.iter().map(|p| quoted(&p.text)).collect();
                words.join(" ")
            });
            let instead = given.iter().position(|text| resembles(entry, text));
            let instead = instead.map_or_else(String::new, |at| {
                format!("; {noun} {}, {}, does not match it", at + 1, argument(at))
            });
            let first = entry
                .alternatives
                .first()
                .and_then(|sequence| sequence.last());
            let values = first.map_or_else(String::new, values);
            format!(
                "the required {noun} {}{values} is missing{instead}",
                shown.unwrap_or_default()
            )
        }
    }
}

/// What the names in a pattern are in this request.
fn known_values(pattern: &Pattern, mismatch: &Mismatch<'_>, rule: &Rule) -> String {
    let value = |slot: Slot| {
        let name = rule.names.get(usize::from(slot))?;
        Some(format!("{name} = {}", quoted(mismatch.bindings.get(slot)?)))
    };
    let mut values: Vec<String> = Vec::new();
    for token in &pattern.tokens {
        if let Token::Same(slot) = token
            && let Some(value) = value(*slot)
            && !values.contains(&value)
        {
            values.push(value);
        }
    }
    if values.is_empty() {
        String::new()
    } else {
        format!(" with {}", values.join(", "))
    }
}

/// The part of an argument that says which option it is.
fn option_name(text: &str) -> &str {
    text.split_once('=').map_or(text, |(name, _)| name)
}

fn resembles(entry: &Entry, text: &str) -> bool {
    let name = option_name(text);
    name.len() > 1
        && entry.alternatives.iter().any(|sequence| {
            sequence
                .first()
                .is_some_and(|pattern| option_name(&pattern.text) == name)
        })
}

/// The entry whose option the argument is, and the pattern that it should have matched.
fn closest<'a>(list: &'a Arguments, text: &str) -> Option<(usize, &'a Pattern)> {
    list.entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| resembles(entry, text))
        .find_map(|(number, entry)| Some((number, entry.alternatives.first()?.last()?)))
}
