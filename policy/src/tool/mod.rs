//! The operator's tool: `check`, `explain`, `lines`, `path-unit`, `init` and `presets`.
//!
//! Reads policy files as the one who runs it and asks no daemon; `init` writes a file where there was none, and nothing else
//! is changed. Whether the files are root's alone is the launcher's to check, each time it reads them.

mod check;
mod explain;
mod files;
mod init;
mod lines;
mod path_unit;
mod presets;
mod ways;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Checks and explains Portcullis's policies.
#[derive(Parser)]
#[command(name = "portcullis-policy", version, arg_required_else_help = true)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reports errors and lints. Exit code 1 on any error and any lint of the level deny.
    Check(check::Options),
    /// Says what would become of a request: rule by rule, and podman's command line. Exit code 1 when it is denied.
    Explain(explain::Options),
    /// Judges the lines of a spool's file, as they come on standard input: a verdict for each. Exit code 1 when any is denied.
    Lines(lines::Options),
    /// Prints the drop-in of the systemd path unit that watches a policy's spools.
    PathUnit(path_unit::Options),
    /// Makes a preset an agent's policy, and prints the two commands that remain. Never replaces a policy.
    Init(init::Options),
    /// Lists the presets.
    Presets(presets::Options),
}

/// The whole of `portcullis-policy`: 0 all is well, 1 it is not, 2 it could not be found out.
#[must_use]
pub fn main() -> ExitCode {
    match Options::parse().command {
        Command::Check(options) => check::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Lines(options) => lines::run(&options),
        Command::PathUnit(options) => path_unit::run(&options),
        Command::Init(options) => init::run(&options),
        Command::Presets(options) => presets::run(&options),
    }
}

/// The command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Options::command()
}

/// Could not be found out: a file that cannot be read, a request that cannot be sent.
const TROUBLE: u8 = 2;

/// Prints to standard output. A reader that has gone away is no trouble of ours.
fn say(text: &dyn std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints to standard error.
fn complain(text: &dyn std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
