//! The audit log: one record per decision, as journal fields where standard error is the journal, else as a JSON line.
//!
//! What a client wrote stands in a record only escaped and cut: whatever it is, it stays one field of one record, and a
//! record stays below 8 KiB.

use crate::bucket::Bucket;
use portcullis_policy::Rate;
use portcullis_wire::{DenialCount, Launch, Reason};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The most bytes of all arguments together in a record.
const ARGUMENTS: usize = 3072;
/// The most bytes of all environment entries together in a record.
const ENVIRONMENT: usize = 768;
/// The most bytes of podman's or Portcullis's own words in a record.
const DETAIL: usize = 1536;
/// The most bytes of any other text of a client.
const TEXT: usize = 256;

/// Sends logs to the journal when standard error is connected to it, else as JSON lines to standard error.
pub fn start_log() {
    let level = tracing_subscriber::filter::LevelFilter::INFO;
    if stderr_is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        let journal = journal.with_field_prefix(Some("PORTCULLIS".to_owned()));
        tracing_subscriber::registry()
            .with(journal.with_filter(level))
            .init();
        return;
    }
    let json = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(io::stderr);
    tracing_subscriber::registry()
        .with(json.with_filter(level))
        .init();
}

/// systemd says in JOURNAL_STREAM which device and inode its stream to the journal has.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|m| stream == format!("{}:{}", m.dev(), m.ino()))
}

/// CLOCK_MONOTONIC in microseconds.
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// When a launch reached which phase: CLOCK_MONOTONIC in microseconds, 0 for a phase that it has not reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// The broker read the datagram.
    pub received: u64,
    /// The launcher's own decision was made.
    pub decided: u64,
    /// Image, namespace and sources were resolved and staged, and the record was on disk.
    pub prepared: u64,
    /// podman returned.
    pub podman: u64,
    /// The main process was seen alive, and the rule's readiness held.
    pub ready: u64,
}

/// Whose request it was, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// The peer's process, as the host numbers it.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What a record says of a request: escaped and cut.
#[derive(Clone, Debug)]
pub struct Asked {
    command: String,
    args: String,
    netns: Option<String>,
    image: Option<String>,
    env: Option<String>,
}

impl Asked {
    /// Takes what a record needs.
    #[must_use]
    pub fn of(launch: &Launch) -> Self {
        let list = |words: &[String], most: usize| {
            let mut out = String::new();
            let mut left = most;
            for word in words {
                if left < TEXT {
                    let _ = write!(out, " … {} in all", words.len());
                    break;
                }
                let text = cut(word, TEXT);
                left = left.saturating_sub(in_json(&text) + 3);
                let _ = write!(out, "{}'{text}'", if out.is_empty() { "" } else { " " });
            }
            out
        };
        let text = |text: &Option<String>| text.as_ref().map(|t| cut(t, TEXT));
        Self {
            command: cut(&launch.command, TEXT),
            args: list(&launch.args, ARGUMENTS),
            netns: text(&launch.netns),
            image: text(&launch.image),
            env: (!launch.env.is_empty()).then(|| list(&launch.env, ENVIRONMENT)),
        }
    }
}

/// How a request was answered.
#[derive(Clone, Debug)]
pub struct Verdict<'a> {
    /// `launched`, `reused`, `denied`, `failed`, `busy` or `explained`.
    pub word: &'static str,
    /// Why, unless it was launched.
    pub reason: Option<Reason>,
    /// The rule that allowed it, or came closest.
    pub rule: Option<&'a str>,
    /// The container's name.
    pub name: Option<&'a str>,
    /// The container's full ID.
    pub container: Option<&'a str>,
    /// The ID of the image that runs.
    pub image_id: Option<&'a str>,
    /// The main process.
    pub pid: Option<u32>,
    /// What the operator should know; podman's words stand here.
    pub detail: &'a str,
    /// The policy's generation.
    pub generation: &'a str,
}

/// Writes the record of one decision.
pub fn record(agent: &str, who: Option<Who>, asked: &Asked, verdict: &Verdict<'_>, at: Phases) {
    let since = |from: u64, to: u64| (from > 0 && to >= from).then(|| to - from);
    let answered = now();
    tracing::info!(
        target: "portcullis::audit",
        agent,
        verdict = verdict.word,
        reason = verdict.reason.map(Reason::code),
        rule = verdict.rule,
        command = asked.command,
        args = asked.args,
        netns = asked.netns,
        image = asked.image,
        env = asked.env,
        name = verdict.name,
        container = verdict.container,
        image_id = verdict.image_id,
        pid = verdict.pid,
        peer_pid = who.map(|w| w.pid),
        peer_uid = who.map(|w| w.uid),
        peer_gid = who.map(|w| w.gid),
        generation = verdict.generation,
        decided_us = since(at.received, at.decided),
        prepared_us = since(at.decided, at.prepared),
        podman_us = since(at.prepared, at.podman),
        ready_us = since(at.podman, at.ready),
        answered_us = since(at.ready.max(at.podman).max(at.prepared).max(at.decided), answered),
        total_us = since(at.received, answered),
        detail = (!verdict.detail.is_empty()).then(|| cut(verdict.detail, DETAIL)),
        by = "launcher",
        "{}", verdict.word
    );
}

/// Writes the record of denials that the broker answered itself; its words are as little trusted as a client's.
pub fn record_broker(agent: &str, generation: &str, denied: &DenialCount) {
    tracing::info!(
        target: "portcullis::audit",
        agent,
        verdict = "denied",
        reason = denied.reason.code(),
        rule = denied.rule.as_ref().map(|r| cut(r, TEXT)),
        count = denied.count,
        peer_pid = denied.pid,
        peer_uid = denied.uid,
        generation,
        detail = cut(&denied.message, 1024),
        by = "broker",
        "denied"
    );
}

/// How many denials of the launcher's own are recorded one by one. An honest broker leaves few to it; what floods it must
/// not push the records of launches out of the log.
const DENIALS: Rate = Rate {
    count: 200,
    per: Duration::from_secs(2),
};
/// The pause between two records of how many were not.
const UNRECORDED: Duration = Duration::from_secs(1);

/// Which denials get a record of their own.
#[derive(Debug)]
pub(crate) struct DenialRecords {
    bucket: Bucket,
    unrecorded: u64,
    told: Instant,
}

impl Default for DenialRecords {
    fn default() -> Self {
        Self {
            bucket: Bucket::full(),
            unrecorded: 0,
            told: Instant::now(),
        }
    }
}

impl DenialRecords {
    /// Whether the next one does; else it is counted.
    pub(crate) fn one_more(&mut self) -> bool {
        let recorded = self.bucket.take(DENIALS);
        self.unrecorded += u64::from(!recorded);
        recorded
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
            verdict = "denied",
            count,
            by = "launcher",
            "denials that were too many to be recorded one by one"
        );
        None
    }
}

/// A text with everything escaped that is not plain to read, cut so that it takes about so many bytes in JSON.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    let mut left = most;
    for c in text.chars() {
        if left == 0 {
            let _ = write!(out, "… ({} bytes)", text.len());
            break;
        }
        let from = out.len();
        match c {
            ' '..='~' if c != '\'' && c != '\\' => out.push(c),
            c if c.is_alphanumeric() && !c.is_ascii() => out.push(c),
            c => out.extend(c.escape_default()),
        }
        left = left.saturating_sub(out.get(from..).map_or(0, in_json));
    }
    out
}

/// How many bytes a text that [`cut`] has made takes in JSON, which escapes two more characters.
fn in_json(text: &str) -> usize {
    text.len() + text.bytes().filter(|b| matches!(b, b'"' | b'\\')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_fields_and_lines_stay_one_escaped_text() {
        let forged = "x\",\"verdict\":\"launched\"}\n{\"verdict\":\"launched\u{2028}\u{202e}' 'y";
        let text = cut(forged, TEXT);
        assert!(!text.contains(['\n', '\u{2028}', '\u{202e}']));
        assert!(!text.replace("\\'", "").contains('\''));
    }

    #[test]
    fn whatever_a_client_sends_a_record_stays_below_8_kib() {
        for text in ["\"", "\n", "\\", "\u{2028}", "é", "x", "'"] {
            let launch = Launch {
                command: text.repeat(60_000),
                args: vec![text.repeat(1000); 1000],
                env: vec![text.repeat(1000); 128],
                netns: Some(text.repeat(5000)),
                image: Some(text.repeat(5000)),
                ..Launch::default()
            };
            let asked = Asked::of(&launch);
            let parts = [
                Some(asked.command),
                Some(asked.args),
                asked.netns,
                asked.image,
                asked.env,
                Some(cut(&text.repeat(60_000), DETAIL)),
            ];
            let size: usize = parts.iter().flatten().map(|part| in_json(part)).sum();
            // Names, IDs, numbers and the keys take the rest.
            assert!(size < 8192 - 1400, "{size} with {text:?}");
        }
    }
}
