//! What the command line asks for: by our own name a subcommand with options, by any other name an applet, where every
//! argument is the program's.
//!
//! No environment variable is read: an agent's root helper scrubs them, and a stray one must not redirect a request.

use crate::way::{Options, Way};
use crate::whom::Whom;
use crate::{netns, operator};
use lexopt::prelude::*;
use portcullis_wire::limits::{ARGUMENTS, ENVIRONMENT};
use portcullis_wire::{Body, Launch};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

/// The name by which this program is not an applet.
const OWN_NAME: &str = "portcullis";
/// How long a launch may take, all repetitions together. A rule may well allow a program 300 s to become ready.
pub(crate) const LAUNCH_PATIENCE: Duration = Duration::from_secs(600);
/// How long an answer that needs no launch may take.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

const HELP: &str = include_str!("help.txt");
const SUBCOMMANDS: &str = "run, explain and ping, and for the operator ps, logs, stop and metrics";

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Ask the broker, or the launcher.
    Question(Box<Question>),
    /// Print this on standard output, and no more.
    Print(String),
}

/// One question.
#[derive(Debug)]
pub(crate) struct Question {
    /// Whom to ask.
    pub(crate) whom: Whom,
    /// Which way it goes. What is no launch goes over the socket.
    pub(crate) way: Way,
    /// What. A list is asked for page by page, beginning with this one.
    pub(crate) body: Body,
    /// How long to wait for the answer, repetitions included; of an answer in pieces, for each.
    pub(crate) patience: Duration,
    /// How the answer is told.
    pub(crate) manner: Manner,
}

/// How an answer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As the program that the applet stands in for: nothing on standard output.
    Applet,
    /// A line for a person.
    Plain,
    /// One JSON object; for a list, one for each row.
    Json,
}

/// A command line that asks for nothing that can be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskedError {
    /// Not to be parsed.
    #[error("{0}; see portcullis --help")]
    Syntax(#[from] lexopt::Error),
    /// No subcommand, or no such.
    #[error("{0}; see portcullis --help")]
    Usage(String),
    /// An applet's argument, or its name, is not text.
    #[error(
        "{what} is not valid UTF-8, and only UTF-8 reaches a side container unchanged: {text:?}"
    )]
    NotUtf8 {
        /// Which one.
        what: String,
        /// What it is.
        text: OsString,
        /// The applet's name, where it has one.
        applet: Option<String>,
    },
    /// More than a request may have.
    #[error("{count} {what}: a launch may have at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
        /// The command.
        command: String,
    },
}

impl AskedError {
    /// Whose error it is: what an applet's line begins with.
    pub(crate) fn speaker(&self) -> String {
        match self {
            Self::NotUtf8 {
                applet: Some(name), ..
            }
            | Self::TooMany { command: name, .. } => format!("{OWN_NAME}: {name}"),
            _ => OWN_NAME.to_owned(),
        }
    }
}

/// Reads the command line, the program's name first.
pub(crate) fn asked(args: impl IntoIterator<Item = OsString>) -> Result<Asked, AskedError> {
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_else(|| OWN_NAME.into());
    let name = Path::new(&name).file_name().unwrap_or(&name);
    if name == OsStr::new(OWN_NAME) {
        own(lexopt::Parser::from_args(args))
    } else {
        applet(name, args)
    }
}

/// Every argument is the program's, `--help` and `--` among them.
fn applet(name: &OsStr, args: impl Iterator<Item = OsString>) -> Result<Asked, AskedError> {
    let command = text(
        name.to_owned(),
        "the name that this program was called by",
        None,
    )?;
    let launch = Launch {
        args: arguments(args, Some(&command))?,
        netns: netns::own(),
        command,
        ..Launch::default()
    };
    Ok(Asked::Question(Box::new(Question {
        whom: Whom::Broker,
        way: Options::default().way(&Whom::Broker, &launch)?,
        body: Body::Launch(bounded(launch)?),
        patience: LAUNCH_PATIENCE,
        manner: Manner::Applet,
    })))
}

fn own(mut parser: lexopt::Parser) -> Result<Asked, AskedError> {
    let mut whom = Whom::Broker;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => whom.take_socket(&mut parser)?,
            Long("agent") => whom.take_agent(&mut parser)?,
            Short('h') | Long("help") => return Ok(help()),
            Short('V') | Long("version") => {
                return Ok(Asked::Print(format!(
                    "portcullis {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Value(word) => {
                return match word.to_str() {
                    Some("run") => run(parser, whom, false),
                    Some("explain") => run(parser, whom, true),
                    Some("ping") => ping(parser, whom),
                    Some("ps") => operator::ps(parser, whom),
                    Some("logs") => operator::logs(parser, whom),
                    Some("stop") => operator::stop(parser, whom),
                    Some("metrics") => operator::metrics(parser, whom),
                    Some("help") => Ok(help()),
                    _ => Err(AskedError::Usage(format!(
                        "{word:?} is no subcommand: {SUBCOMMANDS} are"
                    ))),
                };
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Err(AskedError::Usage(format!(
        "a subcommand is missing: {SUBCOMMANDS} are there"
    )))
}

/// The help text is what is to be printed.
pub(crate) fn help() -> Asked {
    Asked::Print(HELP.to_owned())
}

/// `run` and `explain`: options up to the command, and from there on all is the command's.
fn run(mut parser: lexopt::Parser, mut whom: Whom, explain: bool) -> Result<Asked, AskedError> {
    let mut launch = Launch {
        dry_run: explain,
        ..Launch::default()
    };
    let (mut manner, mut patience, mut options) = (Manner::Plain, None, Options::default());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => whom.take_socket(&mut parser)?,
            Long("agent") => whom.take_agent(&mut parser)?,
            Long("netns") => launch.netns = Some(parser.value()?.string()?),
            Long("image") => launch.image = Some(parser.value()?.string()?),
            Short('e') | Long("env") => launch.env.push(entry(parser.value()?.string()?)?),
            Long("dry-run") => launch.dry_run = true,
            Long("transport") => options.take_transport(&mut parser)?,
            Long("spool") => options.take_spool(&mut parser)?,
            Long("lock") => options.take_lock(&mut parser)?,
            Long("legacy") => options.take_legacy(),
            Long("json") => manner = Manner::Json,
            Long("timeout") => patience = Some(seconds(&mut parser, 1)?),
            Short('h') | Long("help") => return Ok(help()),
            Value(command) => {
                launch.command = text(command, "the command", None)?;
                launch.args = arguments(parser.raw_args()?, None)?;
                break;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if launch.command.is_empty() {
        let message = "a COMMAND is missing: what is to be started, as in `portcullis run dnsmasq`";
        return Err(AskedError::Usage(message.to_owned()));
    }
    if whom.agent().is_some() && !launch.dry_run {
        let message = "--agent asks on the host, where nothing is launched: `explain` says what a launch would do";
        return Err(AskedError::Usage(message.to_owned()));
    }
    let default = if launch.dry_run {
        ANSWER_PATIENCE
    } else {
        LAUNCH_PATIENCE
    };
    Ok(Asked::Question(Box::new(Question {
        way: options.way(&whom, &launch)?,
        whom,
        body: Body::Launch(bounded(launch)?),
        patience: patience.unwrap_or(default),
        manner,
    })))
}

fn ping(mut parser: lexopt::Parser, mut whom: Whom) -> Result<Asked, AskedError> {
    let (mut manner, mut patience) = (Manner::Plain, ANSWER_PATIENCE);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("socket") => whom.take_socket(&mut parser)?,
            Long("agent") => whom.take_agent(&mut parser)?,
            Long("json") => manner = Manner::Json,
            Long("timeout") => patience = seconds(&mut parser, 1)?,
            Short('h') | Long("help") => return Ok(help()),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Asked::Question(Box::new(Question {
        whom,
        way: Way::Socket,
        body: Body::Ping,
        patience,
        manner,
    })))
}

/// `--timeout`: whole seconds, at most a day.
pub(crate) fn seconds(parser: &mut lexopt::Parser, least: u32) -> Result<Duration, AskedError> {
    let seconds = number(parser, "--timeout", least, 86_400)?;
    Ok(Duration::from_secs(seconds.into()))
}

/// The whole number that follows an option.
pub(crate) fn number(
    parser: &mut lexopt::Parser,
    option: &str,
    least: u32,
    most: u32,
) -> Result<u32, AskedError> {
    let value = parser.value()?.string()?;
    match value.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(AskedError::Usage(format!(
            "{option} {value:?}: a whole number is needed, {least} to {most}"
        ))),
    }
}

fn entry(text: String) -> Result<String, AskedError> {
    if matches!(text.find('='), Some(1..)) {
        Ok(text)
    } else {
        Err(AskedError::Usage(format!(
            "--env {text:?}: NAME=value is needed; nothing is taken over from this environment"
        )))
    }
}

fn arguments(
    args: impl Iterator<Item = OsString>,
    applet: Option<&str>,
) -> Result<Vec<String>, AskedError> {
    args.enumerate()
        .map(|(at, arg)| match arg.into_string() {
            Ok(arg) => Ok(arg),
            Err(arg) => text(arg, &format!("argument {}", at + 1), applet),
        })
        .collect()
}

fn text(text: OsString, what: &str, applet: Option<&str>) -> Result<String, AskedError> {
    text.into_string().map_err(|text| AskedError::NotUtf8 {
        what: what.to_owned(),
        text,
        applet: applet.map(str::to_owned),
    })
}

fn bounded(launch: Launch) -> Result<Launch, AskedError> {
    let lists = [
        ("arguments", launch.args.len(), ARGUMENTS),
        ("environment entries", launch.env.len(), ENVIRONMENT),
    ];
    for (what, count, limit) in lists {
        if count > limit {
            return Err(AskedError::TooMany {
                what,
                count,
                limit,
                command: launch.command,
            });
        }
    }
    Ok(launch)
}

#[cfg(test)]
#[path = "asked_tests.rs"]
mod tests;
