//! The operator's subcommands: what is there, what it wrote, to stop it, and the counters.
//!
//! The launcher serves them to root on the host. They can be asked of any socket: a broker refuses them.

use crate::asked::{ANSWER_PATIENCE, Asked, AskedError, LAUNCH_PATIENCE, Manner, Question, help};
use crate::asked::{number, seconds};
use crate::way::Way;
use crate::whom::Whom;
use lexopt::prelude::*;
use portcullis_wire::{Body, Target};
use std::ffi::OsString;
use std::time::Duration;

/// What a stop may take besides the program's own time: podman removes the container before the answer comes.
const STOP_MARGIN: Duration = Duration::from_secs(60);

/// The subcommand that asks for that, where it is an operator's.
pub(crate) fn subcommand(body: &Body) -> Option<&'static str> {
    match body {
        Body::List { .. } => Some("ps"),
        Body::Logs { .. } => Some("logs"),
        Body::Stop { .. } => Some("stop"),
        Body::Metrics => Some("metrics"),
        _ => None,
    }
}

/// `ps`: which side containers are there.
pub(crate) fn ps(mut parser: lexopt::Parser, mut whom: Whom) -> Result<Asked, AskedError> {
    let (mut all, mut manner, mut patience) = (false, Manner::Plain, ANSWER_PATIENCE);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => whom.take_socket(&mut parser)?,
            Long("agent") => whom.take_agent(&mut parser)?,
            Short('a') | Long("all") => all = true,
            Long("json") => manner = Manner::Json,
            Long("timeout") => patience = seconds(&mut parser, 1)?,
            Short('h') | Long("help") => return Ok(help()),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Asked::Question(Box::new(Question {
        whom,
        way: Way::Socket,
        body: Body::List { all, after: None },
        patience,
        manner,
    })))
}

/// `logs`: what one wrote.
pub(crate) fn logs(mut parser: lexopt::Parser, mut whom: Whom) -> Result<Asked, AskedError> {
    let (mut name, mut tail, mut follow, mut patience) = (None, None, false, ANSWER_PATIENCE);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => whom.take_socket(&mut parser)?,
            Long("agent") => whom.take_agent(&mut parser)?,
            Long("tail") => tail = Some(number(&mut parser, "--tail", 0, u32::MAX)?),
            Short('f') | Long("follow") => follow = true,
            Long("timeout") => patience = seconds(&mut parser, 1)?,
            Short('h') | Long("help") => return Ok(help()),
            Value(word) if name.is_none() => name = Some(word),
            other => return Err(other.unexpected().into()),
        }
    }
    let target = target(name, "logs")?;
    Ok(Asked::Question(Box::new(Question {
        whom,
        way: Way::Socket,
        body: Body::Logs {
            target,
            tail,
            follow,
        },
        patience,
        manner: Manner::Plain,
    })))
}

/// `stop`: end one.
pub(crate) fn stop(mut parser: lexopt::Parser, mut whom: Whom) -> Result<Asked, AskedError> {
    let (mut name, mut timeout) = (None, None);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => whom.take_socket(&mut parser)?,
            Long("agent") => whom.take_agent(&mut parser)?,
            Long("timeout") => timeout = Some(seconds(&mut parser, 0)?),
            Short('h') | Long("help") => return Ok(help()),
            Value(word) if name.is_none() => name = Some(word),
            other => return Err(other.unexpected().into()),
        }
    }
    let target = target(name, "stop")?;
    // The rule's own time is not known here.
    let patience = timeout.map_or(LAUNCH_PATIENCE, |timeout| timeout + STOP_MARGIN);
    let timeout = timeout.and_then(|timeout| u32::try_from(timeout.as_secs()).ok());
    Ok(Asked::Question(Box::new(Question {
        whom,
        way: Way::Socket,
        body: Body::Stop { target, timeout },
        patience,
        manner: Manner::Plain,
    })))
}

/// `metrics`: the counters.
pub(crate) fn metrics(mut parser: lexopt::Parser, mut whom: Whom) -> Result<Asked, AskedError> {
    let mut patience = ANSWER_PATIENCE;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => whom.take_socket(&mut parser)?,
            Long("agent") => whom.take_agent(&mut parser)?,
            Long("timeout") => patience = seconds(&mut parser, 1)?,
            Short('h') | Long("help") => return Ok(help()),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Asked::Question(Box::new(Question {
        whom,
        way: Way::Socket,
        body: Body::Metrics,
        patience,
        manner: Manner::Plain,
    })))
}

/// A full ID or a name. A container whose name looks like an ID can be meant by its own ID alone.
fn target(name: Option<OsString>, subcommand: &str) -> Result<Target, AskedError> {
    let name = name.unwrap_or_default().string()?;
    if name.is_empty() {
        return Err(AskedError::Usage(format!(
            "a NAME is missing: `portcullis --agent AGENT {subcommand} NAME`; `ps` lists them"
        )));
    }
    let hex = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    if name.len() == 64 && name.bytes().all(hex) {
        Ok(Target::Container(name))
    } else {
        Ok(Target::Name(name))
    }
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
