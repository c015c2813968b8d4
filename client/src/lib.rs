//! The client: turns a command line into a question, asks the broker, or for an operator the launcher, and ends with the
//! exit code that says what became of it. Where there is no broker, a launch is written into the command's spool.
//!
//! It runs in the agent's container, where nothing is trusted: what it sends is a wish. It trusts answers as far as to
//! print them (hidden characters escaped, but for a container's log that goes to a file or a pipe), starts no process,
//! and leaves no descriptor to anybody.
#![forbid(unsafe_code)]

mod advice;
mod asked;
mod connection;
mod conversation;
mod json;
mod line;
mod listing;
mod netns;
mod operator;
mod outcome;
mod spool;
mod spool_error;
mod terminal;
mod way;
mod whom;

use asked::{Asked, Question};
use conversation::{AskError, ask, hear, list};
use outcome::Outcome;
use portcullis_wire::{Body, Launch, Reply};
use rustix::io::Errno;
use spool::Spool;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use way::Way;

/// The whole program: `args` begins with the name that it was called by.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match asked::asked(args) {
        Ok(Asked::Question(question)) => answer(&question),
        Ok(Asked::Print(text)) => Outcome::printed(text),
        Err(error) => Outcome::failed(&error.speaker(), &error.to_string()),
    };
    ExitCode::from(terminal::tell(&outcome))
}

fn answer(question: &Question) -> Outcome {
    match (&question.way, &question.body) {
        (Way::Spool(spool), Body::Launch(launch)) => write(question, spool, launch, None),
        (Way::SocketElseSpool(spool), Body::Launch(launch)) => match over_socket(question) {
            // Nobody has got the request, so that it is not made twice.
            Err(AskError::Unreachable(errno)) => write(question, spool, launch, Some(errno)),
            answered => told(question, answered),
        },
        _ => told(question, over_socket(question)),
    }
}

fn told(question: &Question, answered: Result<Reply, AskError>) -> Outcome {
    match answered {
        Ok(reply) => outcome::of(question, reply),
        Err(error) => Outcome::unanswered(question, &error),
    }
}

/// Writes the launch into the spool; because of that error, where a broker was looked for first.
fn write(
    question: &Question,
    spool: &Spool,
    launch: &Launch,
    unreachable: Option<Errno>,
) -> Outcome {
    match spool.write(launch, question.patience) {
        Ok(()) => Outcome::spooled(question, spool, unreachable),
        Err(error) => Outcome::unspooled(question, &error, unreachable),
    }
}

fn over_socket(question: &Question) -> Result<Reply, AskError> {
    let (path, patience) = (question.whom.path(), question.patience);
    let deadline = Instant::now() + patience;
    let body = question.body.clone();
    match body {
        Body::List { all, .. } => list(&path, all, deadline),
        Body::Logs { follow, .. } => in_pieces(&path, body, patience, follow),
        Body::Metrics => in_pieces(&path, body, patience, false),
        body => ask(&path, body, deadline),
    }
}

/// Asks for what is written to standard output while it comes.
fn in_pieces(path: &Path, body: Body, patience: Duration, follow: bool) -> Result<Reply, AskError> {
    let mut pieces = terminal::Pieces::new();
    let end = hear(path, body, patience, follow, |bytes| pieces.write(bytes));
    pieces.end();
    end
}
