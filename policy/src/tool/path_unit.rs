//! `portcullis-policy path-unit`: what systemd has to watch for a policy's spools.

use super::files::{self, FilesError};
use super::{complain, say};
use crate::Policy;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The policy, with its drop-ins
    file: PathBuf,
}

/// Why there is no drop-in.
#[derive(Debug, thiserror::Error)]
enum PathUnitError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("{}: the policy has no [[spool]]: there is nothing to watch", .0.display())]
    NoSpool(PathBuf),
}

pub(super) fn run(options: &Options) -> ExitCode {
    match drop_in(options) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn drop_in(options: &Options) -> Result<String, PathUnitError> {
    let policy = files::load(&options.file)?;
    if policy.spools().is_empty() {
        return Err(PathUnitError::NoSpool(options.file.clone()));
    }
    Ok(text(&policy))
}

/// The unit itself has no path: which there are, the policy alone says.
fn text(policy: &Policy) -> String {
    let unit = format!("portcullis-spool@{}.path", policy.agent());
    let mut text = format!(
        "# /etc/systemd/system/{unit}.d/spools.conf, written by `portcullis-policy path-unit`.\n\
         # Where the policy's spools change, write it anew, then: systemctl daemon-reload; systemctl restart {unit}\n\
         [Path]"
    );
    for spool in policy.spools() {
        // `%` begins a specifier in a unit's file. Nothing else in a path does anything there: it is on one line, and
        // ends with the file's name.
        text += "\nPathModified=";
        text += &spool.timestamp().replace('%', "%%");
    }
    text
}
