//! What the caller is told: an exit code as podman and env(1) have them, and texts for the two streams.

use crate::asked::{Manner, Question};
use crate::conversation::AskError;
use crate::json::Object;
use crate::spool::Spool;
use crate::spool_error::SpoolError;
use crate::terminal::{line, lines};
use crate::{advice, listing};
use portcullis_wire::{Body, Failure, Pong, Reason, Reply, Target};
use rustix::io::Errno;
use std::io;

/// The broker or the engine failed, or the question could not be asked.
pub(crate) const FAILURE: u8 = 125;
/// Denied.
pub(crate) const DENIED: u8 = 126;
/// There is no broker, nor a spool.
pub(crate) const NOBODY: u8 = 127;

/// How the program ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The exit code.
    pub(crate) code: u8,
    /// For standard output.
    pub(crate) out: String,
    /// For standard error: one line, and after it what a program that ended said last.
    pub(crate) err: String,
}

impl Outcome {
    /// Success, with that on standard output.
    pub(crate) fn printed(out: String) -> Self {
        Self {
            code: 0,
            out,
            err: String::new(),
        }
    }

    /// The question could not even be asked.
    pub(crate) fn failed(speaker: &str, message: &str) -> Self {
        let err = format!("{speaker}: {}\n", line(message));
        Self {
            code: FAILURE,
            out: String::new(),
            err,
        }
    }

    /// There was no answer.
    pub(crate) fn unanswered(question: &Question, error: &AskError) -> Self {
        let mut message = error.to_string();
        let code = match error {
            // Whoever reads the pieces has had enough of them, and knows.
            AskError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Self {
                    code: FAILURE,
                    out: String::new(),
                    err: String::new(),
                };
            }
            AskError::Unreachable(errno) | AskError::Gone(errno) => {
                let nobody = advice::nobody(question, *errno);
                message = format!("{nobody}; {}", advice::unreachable(question, *errno));
                NOBODY
            }
            _ => FAILURE,
        };
        let json = || Object::answer("none").text("message", &message);
        told(question, code, json, &message)
    }

    /// The launch is in the spool; because of that error, where a broker was looked for first.
    pub(crate) fn spooled(question: &Question, spool: &Spool, unreachable: Option<Errno>) -> Self {
        let nobody = unreachable.map(|errno| advice::nobody(question, errno));
        let path = spool.processes().display().to_string();
        let message = format!(
            "{}written to {path}; the host starts it when it reads that",
            nobody
                .as_ref()
                .map_or(String::new(), |nobody| format!("{nobody}; ")),
        );
        let json = || {
            Object::answer("spooled")
                .text("file", &path)
                .optional_text("unreachable", nobody.as_deref())
        };
        told(question, 0, json, &message)
    }

    /// The launch is not in the spool, nor with a broker.
    pub(crate) fn unspooled(
        question: &Question,
        error: &SpoolError,
        unreachable: Option<Errno>,
    ) -> Self {
        let missing = matches!(error, SpoolError::Missing(_));
        let mut message = error.to_string();
        if let Some(errno) = unreachable {
            message = format!("{}; {message}", advice::nobody(question, errno));
            if missing {
                message = format!("{message}; {}", advice::unreachable(question, errno));
            }
        }
        let code = if missing { NOBODY } else { FAILURE };
        let json = || Object::answer("none").text("message", &message);
        told(question, code, json, &message)
    }
}

/// What that reply means to the caller.
pub(crate) fn of(question: &Question, reply: Reply) -> Outcome {
    match (&question.body, reply) {
        (Body::Ping, Reply::Pong(pong)) => Outcome::printed(pong_text(question.manner, &pong)),
        (Body::Launch(launch), reply @ Reply::Launched { .. }) if !launch.dry_run => {
            Outcome::printed(launched_text(question.manner, &reply))
        }
        (Body::Launch(launch), Reply::Explained { allowed, report }) if launch.dry_run => {
            explained(question.manner, allowed, &report)
        }
        (Body::List { .. }, Reply::Containers { items, more: false }) => {
            Outcome::printed(listing::text(question.manner, &items))
        }
        (Body::Stop { target, .. }, Reply::Done { exit }) => {
            Outcome::printed(ended(target, exit) + "\n")
        }
        (Body::Logs { target, follow, .. }, Reply::Done { exit }) => Outcome {
            code: 0,
            out: String::new(),
            // Beside the log, not in it.
            err: if *follow {
                format!("portcullis: {}\n", ended(target, exit))
            } else {
                String::new()
            },
        },
        (Body::Metrics, Reply::Done { .. }) => Outcome::printed(String::new()),
        (Body::Stop { target, .. } | Body::Logs { target, .. }, Reply::NotFound) => {
            let agent = question.whom.agent();
            let of = agent.map_or("the agent".to_owned(), |agent| format!("the agent {agent}"));
            let message = format!(
                "{of} has no side container {}; ps lists those that it has",
                name(target)
            );
            told(question, FAILURE, || Object::answer("not-found"), &message)
        }
        (
            _,
            Reply::Denied {
                reason,
                rule,
                message,
            },
        ) => denied(question, reason, rule.as_deref(), &message),
        (Body::Launch(_), Reply::Failed(failure)) => failed(question, &failure),
        (_, Reply::UnsupportedVersion { spoken }) => {
            let message = format!(
                "[{}] the host speaks protocol version {spoken:?}, this client {}: they have to be of one release",
                Reason::UnsupportedVersion,
                portcullis_wire::limits::VERSION,
            );
            let json = || {
                Object::answer("failed")
                    .text("reason", Reason::UnsupportedVersion.code())
                    .text("message", &message)
            };
            told(question, FAILURE, json, &message)
        }
        _ => {
            let message = "the answer is to something else than was asked; are this client and Portcullis on the host of the same version?";
            let json = || Object::answer("failed").text("message", message);
            told(question, FAILURE, json, message)
        }
    }
}

fn pong_text(manner: Manner, pong: &Pong) -> String {
    if manner == Manner::Json {
        return Object::answer("pong")
            .text("agent", &pong.agent)
            .text("generation", &pong.generation)
            .text("version", &pong.version)
            .texts("layers", &pong.layers)
            .number("landlock_abi", pong.landlock_abi.into())
            .text("peer_identification", &pong.peer_identification)
            .line();
    }
    let policy = if pong.generation.is_empty() {
        "none that can be used: every launch is answered policy-unavailable"
    } else {
        &pong.generation
    };
    let mut layers = if pong.layers.is_empty() {
        "no layer is in force".to_owned()
    } else {
        pong.layers.join(", ")
    };
    if pong.landlock_abi > 0 {
        layers.push_str(&format!(" (Landlock ABI {})", pong.landlock_abi));
    }
    let rows = [
        ("agent", pong.agent.as_str()),
        ("policy", policy),
        ("version", &pong.version),
        ("sandbox", &layers),
        ("peers by", &pong.peer_identification),
    ];
    let row = |(name, value): (&str, &str)| format!("{name:9}{}\n", line(value));
    rows.into_iter().map(row).collect()
}

fn launched_text(manner: Manner, reply: &Reply) -> String {
    let Reply::Launched {
        container,
        name,
        pid,
        reused,
    } = reply
    else {
        return String::new();
    };
    match manner {
        Manner::Applet => String::new(),
        Manner::Json => Object::answer("launched")
            .text("container", container)
            .text("name", name)
            .number("pid", *pid)
            .truth("reused", *reused)
            .line(),
        Manner::Plain => {
            let how = if *reused { "ran already" } else { "runs" };
            let id = container.get(..12).unwrap_or(container);
            let (name, id) = (line(name), line(id));
            format!("{name} {how}: container {id}, process {pid} on the host\n")
        }
    }
}

fn ended(target: &Target, exit: Option<u8>) -> String {
    let name = line(name(target));
    match exit {
        Some(code) => format!("{name} ended with exit code {code}"),
        None => format!("{name} has ended; with which exit code is not known"),
    }
}

/// As the command line has it.
fn name(target: &Target) -> &str {
    match target {
        Target::Name(text) | Target::Container(text) => text,
        Target::Process { .. } | Target::Service { .. } => "",
    }
}

fn explained(manner: Manner, allowed: bool, report: &str) -> Outcome {
    let code = if allowed { 0 } else { DENIED };
    let mut out = match manner {
        Manner::Json => Object::answer("explained")
            .truth("allowed", allowed)
            .text("report", report)
            .line(),
        _ => lines(report),
    };
    if !out.ends_with('\n') {
        out.push('\n');
    }
    let err = if allowed {
        ""
    } else {
        "portcullis: this would be denied\n"
    };
    Outcome {
        code,
        out,
        err: err.to_owned(),
    }
}

fn denied(question: &Question, reason: Reason, rule: Option<&str>, message: &str) -> Outcome {
    let json = || {
        Object::answer("denied")
            .text("reason", reason.code())
            .optional_text("rule", rule)
            .text("message", message)
    };
    let mut why = if message.is_empty() {
        reason.text()
    } else {
        message
    };
    let mut by = String::new();
    if let Some(rule) = rule {
        by = format!(" by rule {rule}");
        // The message names it too, for those who read it alone.
        why = why.strip_prefix(&format!("rule {rule:?}: ")).unwrap_or(why);
    }
    let text = format!(
        "denied{by} [{reason}]: {why}; {}",
        advice::about(question, reason)
    );
    told(question, DENIED, json, &text)
}

fn failed(question: &Question, failure: &Failure) -> Outcome {
    let reason = failure.reason;
    let code = match (reason, failure.exit) {
        (Reason::Exited, Some(code @ 1..)) => code,
        _ => FAILURE,
    };
    let exit = failure
        .exit
        .map_or("null".to_owned(), |exit| exit.to_string());
    let json = || {
        Object::answer("failed")
            .text("reason", reason.code())
            .bare("exit", &exit)
            .text("message", &failure.message)
            .text("output", &failure.output)
    };
    let why = if failure.message.is_empty() {
        reason.text()
    } else {
        &failure.message
    };
    let text = format!(
        "failed [{reason}]: {why}; {}",
        advice::about(question, reason)
    );
    let mut outcome = told(question, code, json, &text);
    for said in failure.output.lines() {
        outcome.err.push_str("  ");
        outcome.err.push_str(&lines(said));
        outcome.err.push('\n');
    }
    outcome
}

/// One line on standard error, whatever the manner, and for a script the object.
fn told(question: &Question, code: u8, json: impl Fn() -> Object, message: &str) -> Outcome {
    let speaker = match &question.body {
        Body::Launch(launch) => format!("portcullis: {}", line(&launch.command)),
        _ => "portcullis".to_owned(),
    };
    let out = match question.manner {
        Manner::Json => json().line(),
        Manner::Applet | Manner::Plain => String::new(),
    };
    let err = format!("{speaker}: {}\n", line(message));
    Outcome { code, out, err }
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
