//! The audit log: one record per decision, as journal fields where standard error is the journal, else as a JSON line.
//!
//! What a client wrote stands in a record only escaped and cut: whatever it is, it stays one field of one record, and a
//! record stays below 8 KiB.

use crate::cgroup::ContainerId;
use portcullis_policy::{Peer, argv_hash};
use portcullis_wire::hidden::is_hidden;
use portcullis_wire::{DenialCount, DeniedLaunch, Excerpt, Launch, Reason};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod sparse;

pub(crate) use sparse::Sparse;

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
#[derive(Clone, Debug)]
pub enum Who {
    /// A process that has connected.
    Process {
        /// Its number, as the host has it.
        pid: i32,
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// The container that its cgroup names, which it may have had a hand in.
        container: Option<ContainerId>,
    },
    /// Whoever can write in this spool's directory.
    Spool(Arc<str>),
}

impl Who {
    /// The same for the policy.
    #[must_use]
    pub fn peer(&self) -> Peer {
        match self {
            Self::Process { pid, uid, gid, .. } => Peer::Process {
                pid: *pid,
                uid: *uid,
                gid: *gid,
            },
            Self::Spool(dir) => Peer::Spool {
                dir: Arc::clone(dir),
            },
        }
    }

    fn spool(&self) -> Option<&str> {
        match self {
            Self::Spool(dir) => Some(dir),
            Self::Process { .. } => None,
        }
    }
}

/// What a record says of a request: escaped and cut.
#[derive(Clone, Debug)]
pub struct Asked {
    command: String,
    args: String,
    /// The hash of the whole command line, of which the above may be a part; `None`: it is no command line.
    argv: Option<String>,
    netns: Option<String>,
    image: Option<String>,
    env: Option<String>,
}

impl Asked {
    /// Takes what a record needs.
    #[must_use]
    pub fn of(launch: &Launch) -> Self {
        let list = |words: &[String], most: usize| {
            let (mut out, whole) = list(words.iter().map(String::as_str), most);
            if !whole {
                let _ = write!(out, " … {} in all", words.len());
            }
            out
        };
        let text = |text: &Option<String>| text.as_ref().map(|t| cut(t, TEXT));
        Self {
            command: cut(&launch.command, TEXT),
            args: list(&launch.args, ARGUMENTS),
            argv: Some(argv_hash(&launch.command, &launch.args)),
            netns: text(&launch.netns),
            image: text(&launch.image),
            env: (!launch.env.is_empty()).then(|| list(&launch.env, ENVIRONMENT)),
        }
    }

    /// The same as a broker tells it.
    fn told(launch: &DeniedLaunch) -> Self {
        let text = |excerpt: &Excerpt| cut_of(&excerpt.text, bytes(excerpt), TEXT);
        let (command, args) = (&launch.command, launch.args.as_ref());
        let argv = if command.is_whole() && args.is_none_or(Excerpt::is_whole) {
            let words =
                args.map(|args| args.text.split('\0').map(str::to_owned).collect::<Vec<_>>());
            Some(argv_hash(&command.text, &words.unwrap_or_default()))
        } else {
            launch.argv.as_ref().map(|hash| cut(hash, 64))
        };
        Self {
            command: text(&launch.command),
            args: launch.args.as_ref().map(arguments).unwrap_or_default(),
            argv,
            netns: launch.netns.as_ref().map(text),
            image: launch.image.as_ref().map(text),
            env: None,
        }
    }

    /// The same of the beginning of a text that nobody has read as a request.
    #[must_use]
    pub fn unread(command: &str, text: String) -> Self {
        let launch = Launch {
            command: command.to_owned(),
            args: vec![text],
            ..Launch::default()
        };
        Self {
            argv: None,
            ..Self::of(&launch)
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
    /// The plan's hash, where a rule allowed it.
    pub plan: Option<&'a str>,
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
pub fn record(agent: &str, who: Option<&Who>, asked: &Asked, verdict: &Verdict<'_>, at: Phases) {
    let (mut peer, mut peer_container) = (None, None);
    if let Some(Who::Process {
        pid,
        uid,
        gid,
        container,
    }) = who
    {
        peer = Some((pid, uid, gid));
        peer_container = container.as_ref().map(ContainerId::as_str);
    }
    let since = |from: u64, to: u64| (from > 0 && to >= from).then(|| to - from);
    let answered = now();
    tracing::info!(
        target: "portcullis::audit",
        agent,
        verdict = verdict.word,
        reason = verdict.reason.map(Reason::code),
        rule = verdict.rule,
        plan = verdict.plan,
        command = asked.command,
        args = asked.args,
        argv_sha256 = asked.argv,
        netns = asked.netns,
        image = asked.image,
        env = asked.env,
        name = verdict.name,
        container = verdict.container,
        image_id = verdict.image_id,
        pid = verdict.pid,
        peer_pid = peer.map(|p| p.0),
        peer_uid = peer.map(|p| p.1),
        peer_gid = peer.map(|p| p.2),
        peer_container,
        spool = who.and_then(Who::spool),
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
/// `line`: of a line in that spool, so that there is no process; what it asks for the launcher has read itself.
pub fn record_broker(
    agent: &str,
    line: Option<(&str, &Asked)>,
    generation: &str,
    denied: &DenialCount,
) {
    let told = denied.launch.as_deref().map(Asked::told);
    let asked = line.map(|(_, asked)| asked).or(told.as_ref());
    let process = line.is_none();
    tracing::info!(
        target: "portcullis::audit",
        agent,
        verdict = "denied",
        reason = denied.reason.code(),
        rule = denied.rule.as_ref().map(|r| cut(r, TEXT)),
        count = denied.count,
        command = asked.map(|a| &a.command),
        args = asked.map(|a| &a.args),
        argv_sha256 = asked.and_then(|a| a.argv.as_ref()),
        netns = asked.and_then(|a| a.netns.as_ref()),
        image = asked.and_then(|a| a.image.as_ref()),
        peer_pid = process.then_some(denied.pid),
        peer_uid = process.then_some(denied.uid),
        peer_gid = process.then_some(denied.gid),
        spool = line.map(|(spool, _)| spool),
        generation,
        detail = cut(&denied.message, 1024),
        by = "broker",
        "denied"
    );
}

/// The arguments of a launch, as a broker tells them.
fn arguments(excerpt: &Excerpt) -> String {
    let (mut out, whole) = list(excerpt.text.split('\0'), ARGUMENTS);
    if !whole || bytes(excerpt) > excerpt.text.len() {
        let _ = write!(out, " … ({} bytes)", excerpt.bytes);
    }
    out
}

/// How many bytes a broker says that a text had.
fn bytes(excerpt: &Excerpt) -> usize {
    usize::try_from(excerpt.bytes).unwrap_or(usize::MAX)
}

/// Words in quotes, in at most so many bytes of JSON, and whether these are all.
fn list<'a>(words: impl Iterator<Item = &'a str>, most: usize) -> (String, bool) {
    let mut out = String::new();
    let mut left = most;
    for word in words {
        if left < TEXT {
            return (out, false);
        }
        let text = cut(word, TEXT);
        left = left.saturating_sub(in_json(&text) + 3);
        let _ = write!(out, "{}'{text}'", if out.is_empty() { "" } else { " " });
    }
    (out, true)
}

/// A text with everything escaped that is not plain to read, cut so that it takes about so many bytes in JSON.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    cut_of(text, text.len(), most)
}

/// [`cut`] for the beginning of a text that had so many bytes.
fn cut_of(text: &str, bytes: usize, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    let mut left = most;
    let mut whole = bytes <= text.len();
    for c in text.chars() {
        if left == 0 {
            whole = false;
            break;
        }
        let from = out.len();
        match c {
            ' '..='~' if c != '\'' && c != '\\' => out.push(c),
            c if c.is_alphanumeric() && !c.is_ascii() && !is_hidden(c) => out.push(c),
            c => out.extend(c.escape_default()),
        }
        left = left.saturating_sub(out.get(from..).map_or(0, in_json));
    }
    if !whole {
        let _ = write!(out, "… ({bytes} bytes)");
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
    use portcullis_wire::limits;
    use std::sync::{Arc, Mutex};

    /// What is written in it to the log, as it stands there.
    fn logged(write: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Log {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = Log::default();
        let to = log.clone();
        let json = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(move || to.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(json), write);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    fn excerpt(text: &str, bytes: u32) -> Excerpt {
        let text = text.to_owned();
        Excerpt { text, bytes }
    }

    fn denial(launch: DeniedLaunch, text: &str) -> DenialCount {
        DenialCount {
            reason: Reason::UnsupportedVersion,
            rule: Some(text.to_owned()),
            count: u32::MAX,
            uid: u32::MAX,
            gid: u32::MAX,
            pid: i32::MIN,
            message: text.to_owned(),
            launch: Some(Box::new(launch)),
        }
    }

    #[test]
    fn a_brokers_denial_says_what_was_asked_for_and_how_much_of_it_is_missing() {
        let launch = DeniedLaunch {
            command: excerpt("dns\nmasq", 300),
            args: Some(excerpt("--a\0\0b c'", 900)),
            netns: Some(excerpt("qdhcp-1", 7)),
            image: None,
            argv: Some("0".repeat(70)),
        };
        let line = logged(|| record_broker("blue", None, "g", &denial(launch, "m")));
        for part in [
            r#""command":"dns\\nmasq… (300 bytes)""#,
            r#""args":"'--a' '' 'b c\\'' … (900 bytes)""#,
            &format!(r#""argv_sha256":"{}… (70 bytes)""#, "0".repeat(64)),
            r#""netns":"qdhcp-1""#,
            r#""peer_gid":4294967295"#,
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("image"), "{line}");
    }

    #[test]
    fn whatever_a_broker_says_a_record_stays_one_line_below_8_kib() {
        for text in ["\"", "\n", "\\", "\u{2028}", "é", "x", "'", "\0", "x\0"] {
            // All that fits into an order, in each of its texts.
            let long = excerpt(&text.repeat(limits::DATAGRAM / text.len()), u32::MAX);
            let launch = DeniedLaunch {
                command: long.clone(),
                args: Some(long.clone()),
                argv: Some(long.text.clone()),
                netns: Some(long.clone()),
                image: Some(long.clone()),
            };
            let (agent, generation) = ("x".repeat(32), "0".repeat(16));
            let line =
                logged(|| record_broker(&agent, None, &generation, &denial(launch, &long.text)));
            assert_eq!(line.lines().count(), 1);
            assert!(line.len() < 8192, "{} with {text:?}", line.len());
        }
    }

    #[test]
    fn forged_fields_and_lines_stay_one_escaped_text() {
        let forged =
            "x\",\"verdict\":\"launched\"}\n{\"verdict\":\"launched\u{2028}\u{202e}' 'y\u{3164}";
        let text = cut(forged, TEXT);
        assert!(!text.contains(is_hidden));
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
                asked.argv,
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
