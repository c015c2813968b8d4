//! `portcullis-policy lines`: what would become of the lines of a spool's file, such as one that a host has already.

use super::files::{self, FilesError};
use super::{TROUBLE, complain, say};
use crate::{Decision, Peer, Policy, Spool, decide};
use portcullis_wire::line::{self, LineError};
use portcullis_wire::{Body, Launch, Reason, Request, codec};
use std::io::{self, BufRead};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The directory of the spool that the lines are of, as the policy has it
    #[arg(long, value_name = "DIR")]
    spool: String,
    /// The policy, with its drop-ins
    file: PathBuf,
}

/// Why lines cannot be judged.
#[derive(Debug, thiserror::Error)]
enum LinesError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Spool(#[from] NoSpool),
    #[error("standard input: {0}")]
    Input(#[from] io::Error),
}

/// The policy has no such spool.
#[derive(Debug, thiserror::Error)]
#[error("the policy has no [[spool]] at {dir:?}; it has: {known}")]
pub(super) struct NoSpool {
    dir: String,
    known: String,
}

pub(super) fn run(options: &Options) -> ExitCode {
    match judged(options, io::stdin().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            ExitCode::from(TROUBLE)
        }
    }
}

/// Says a verdict for each line, and whether all were allowed.
fn judged(options: &Options, mut input: impl BufRead) -> Result<bool, LinesError> {
    let policy = files::load(&options.file)?;
    let spool = spool(&policy, &options.spool)?;
    let mut all = true;
    let mut text = Vec::new();
    for number in 1_u64.. {
        text.clear();
        if input.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        let verdict = verdict(&policy, spool, &text);
        all &= verdict.is_ok();
        match verdict {
            Ok(allowed) => say(&format_args!("{number}: allowed: {allowed}")),
            Err((reason, message)) => say(&format_args!("{number}: denied: {reason}: {message}")),
        }
    }
    Ok(all)
}

/// What becomes of one line with its newline, which an unfinished last one does not have.
fn verdict(policy: &Policy, spool: &Spool, text: &[u8]) -> Result<String, (Reason, String)> {
    let Some(text) = text.strip_suffix(b"\n") else {
        let message = "the last line has no newline: it may be half a line";
        return Err((Reason::Malformed, message.to_owned()));
    };
    let launch = launch(spool, text).map_err(|error| (error.reason(), error.to_string()))?;
    match decide(policy, &peer(spool), &launch) {
        Decision::Allow(plan) => {
            // From here on it is a request like any other, and has to fit where those do.
            let body = Body::Launch(launch);
            codec::encode(&Request { id: 1, body })
                .map_err(|error| (Reason::TooLarge, error.to_string()))?;
            Ok(format!("rule {}, container {}", plan.rule(), plan.name()))
        }
        Decision::Deny(denial) => Err((denial.reason, denial.message)),
    }
}

/// The spool with this directory.
pub(super) fn spool<'a>(policy: &'a Policy, dir: &str) -> Result<&'a Spool, NoSpool> {
    let spools = policy.spools();
    let found = spools.iter().find(|spool| *spool.dir == *dir);
    found.ok_or_else(|| {
        let known: Vec<String> = spools.iter().map(|s| format!("{:?}", s.dir)).collect();
        NoSpool {
            dir: dir.to_owned(),
            known: match known.is_empty() {
                true => "none".to_owned(),
                false => known.join(", "),
            },
        }
    })
}

/// Who asks with a line of this spool.
pub(super) fn peer(spool: &Spool) -> Peer {
    Peer::Spool {
        dir: spool.dir.clone(),
    }
}

/// What a line of this spool asks for.
pub(super) fn launch(spool: &Spool, text: &[u8]) -> Result<Launch, LineError> {
    line::request(&spool.command, text)
}
