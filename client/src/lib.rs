//! The client: turns a command line into one request, asks the broker, and ends with the exit code that says what
//! became of it.
//!
//! It runs in the agent's container, where nothing is trusted: what it sends is a wish. It trusts the broker's answers
//! as far as to print them (control characters escaped), starts no process, and leaves no descriptor to anybody.
#![forbid(unsafe_code)]

mod advice;
mod asked;
mod connection;
mod conversation;
mod json;
mod netns;
mod outcome;
mod terminal;

use asked::{Asked, Question};
use outcome::Outcome;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

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
    let deadline = Instant::now() + question.patience;
    match conversation::ask(&question.socket, &question.body, deadline) {
        Ok(reply) => outcome::of(question, reply),
        Err(error) => Outcome::unanswered(question, &error),
    }
}
