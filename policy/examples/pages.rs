//! Writes what `make install` puts beside portcullis-policy: its manual pages, and completions for bash, zsh and fish.
//!
//! An example, so that what only packagers need is no part of the program.
//!
//! `cargo run -p portcullis-policy --example pages -- DIRECTORY`

use clap_complete::Shell;
use portcullis_policy::tool::command;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: pages DIRECTORY");
        return ExitCode::FAILURE;
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut completed = command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut completed, "portcullis-policy", directory)?;
    }
    // A new one: completions have added `help` to the other, whose pages would say everything twice.
    clap_mangen::generate_to(command(), directory)
}
