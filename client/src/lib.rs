//! The client: turns a command line into a question, asks the broker, or for an operator the launcher, and ends with the
//! exit code that says what became of it.
//!
//! It runs in the agent's container, where nothing is trusted: what it sends is a wish. It trusts answers as far as to
//! print them (control characters escaped, but for a container's log that goes to a file or a pipe), starts no process,
//! and leaves no descriptor to anybody.
#![forbid(unsafe_code)]

mod advice;
mod asked;
mod connection;
mod conversation;
mod json;
mod listing;
mod netns;
mod operator;
mod outcome;
mod terminal;
mod whom;

use asked::{Asked, Question};
use conversation::{AskError, ask, hear, list};
use outcome::Outcome;
use portcullis_wire::{Body, Reply};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

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
    let (path, patience) = (question.whom.path(), question.patience);
    let deadline = Instant::now() + patience;
    let body = question.body.clone();
    let answered = match body {
        Body::List { all, .. } => list(&path, all, deadline),
        Body::Logs { follow, .. } => in_pieces(&path, body, patience, follow),
        Body::Metrics => in_pieces(&path, body, patience, false),
        body => ask(&path, body, deadline),
    };
    match answered {
        Ok(reply) => outcome::of(question, reply),
        Err(error) => Outcome::unanswered(question, &error),
    }
}

/// Asks for what is written to standard output while it comes.
fn in_pieces(path: &Path, body: Body, patience: Duration, follow: bool) -> Result<Reply, AskError> {
    let mut pieces = terminal::Pieces::new();
    let end = hear(path, body, patience, follow, |bytes| pieces.write(bytes));
    pieces.end();
    end
}
