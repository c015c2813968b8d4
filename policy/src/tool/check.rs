//! `portcullis-policy check`: errors and lints of policies, links of this host on the way to what they name, and what two
//! agents would share: names, spools.

use super::files::{self, DIRECTORY, FilesError};
use super::{TROUBLE, complain, say, ways};
use crate::{Level, Policy};
use portcullis_wire::{AgentName, PolicyText};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The policies to check, each with its drop-ins [default: /etc/portcullis/agents/*.toml]
    files: Vec<PathBuf>,
    /// Check the one FILE as what is to replace PATH, a policy or a drop-in, with everything else that is there
    #[arg(long = "as", value_name = "PATH", requires = "files")]
    place: Option<PathBuf>,
    /// Errors alone: what would keep a policy from being loaded
    #[arg(long)]
    no_lints: bool,
}

/// What is known after a file has been checked.
pub(super) struct Checked {
    pub(super) path: PathBuf,
    pub(super) policy: Policy,
    lints: usize,
}

pub(super) fn run(options: &Options) -> ExitCode {
    if options.place.is_some() && options.files.len() != 1 {
        complain(&"--as takes exactly one FILE: a place can be taken by one alone");
        return ExitCode::from(TROUBLE);
    }
    let paths = if options.files.is_empty() {
        files::list(Path::new(DIRECTORY))
    } else {
        Ok(options.files.clone())
    };
    let paths = match paths {
        Ok(paths) => paths,
        Err(error) => {
            complain(&error);
            return ExitCode::from(TROUBLE);
        }
    };
    if paths.is_empty() {
        say(&format_args!("{DIRECTORY}: there is no policy"));
    }
    let mut failed = 0;
    let mut checked = Vec::new();
    for path in &paths {
        match check(path, options, &mut failed) {
            Ok(policy) => checked.extend(policy),
            Err(error) => {
                complain(&error);
                failed += 1;
            }
        }
    }
    failed += shared(&checked);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        complain(&format_args!("{failed} to mend"));
        ExitCode::FAILURE
    }
}

/// Checks one policy, says what there is to say, and counts what has to be mended.
fn check(
    path: &Path,
    options: &Options,
    failed: &mut usize,
) -> Result<Option<Checked>, FilesError> {
    let no_lints = options.no_lints;
    let (path, texts) = match &options.place {
        Some(place) => files::read_as(path, place)?,
        None => (path.to_owned(), files::read(path)?),
    };
    let agent = files::agent_of(&path)?;
    let checked = review(&path, &agent, &texts, no_lints, failed);
    if let Some(Checked { policy, .. }) = checked.as_ref().filter(|_| !no_lints) {
        *failed += look(policy, &texts);
    }
    if let Some(Checked { policy, lints, .. }) = &checked {
        let lints = if no_lints {
            String::new()
        } else {
            format!("{lints} lints, ")
        };
        let spools = match policy.spools().len() {
            0 => String::new(),
            count => format!("{count} spools, "),
        };
        say(&format_args!(
            "{}: agent {agent}, {} rules, {spools}{lints}generation {}",
            path.display(),
            policy.rules.len(),
            policy.generation()
        ));
    }
    Ok(checked)
}

/// Shows errors and lints of what is, or is to be, the policy at `path`, and counts what has to be mended.
pub(super) fn review(
    path: &Path,
    agent: &AgentName,
    texts: &[PolicyText],
    no_lints: bool,
    failed: &mut usize,
) -> Option<Checked> {
    let (policy, mut lints) = match Policy::review(agent, texts) {
        Ok(reviewed) => reviewed,
        Err(problems) => {
            complain(&format_args!("{problems}\n"));
            *failed += problems.len();
            return None;
        }
    };
    if no_lints {
        lints.clear();
    }
    for lint in &lints {
        complain(&format_args!("{lint}\n"));
    }
    let denied = lints.iter().filter(|lint| lint.level == Level::Deny);
    *failed += denied.count();
    Some(Checked {
        path: path.to_owned(),
        policy,
        lints: lints.len(),
    })
}

/// Shows where a symbolic link of this host is on the way to what the policy names, and counts these.
pub(super) fn look(policy: &Policy, texts: &[PolicyText]) -> usize {
    let found = ways::links(policy, texts);
    for text in &found.errors {
        complain(&format_args!("{text}\n"));
    }
    for note in &found.notes {
        complain(note);
    }
    found.errors.len()
}

/// Compares every checked policy with the others, and with those beside it that were not asked for.
pub(super) fn shared(checked: &[Checked]) -> usize {
    let mut others: Vec<PathBuf> = Vec::new();
    for one in checked {
        let directory = one
            .path
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let beside = files::list(directory.unwrap_or(Path::new("."))).unwrap_or_default();
        others.extend(beside);
    }
    others.sort();
    others.dedup();
    // A neighbour that does not load makes no containers; it is reported when it is checked itself.
    let neighbours = others.into_iter().filter_map(|path| {
        let same = |a: &Path, b: &Path| a.canonicalize().ok() == b.canonicalize().ok();
        if checked.iter().any(|one| same(&one.path, &path)) {
            return None;
        }
        let agent = files::agent_of(&path).ok()?;
        let policy = Policy::load(&agent, &files::read(&path).ok()?).ok()?;
        Some(Checked {
            path,
            policy,
            lints: 0,
        })
    });
    let neighbours: Vec<Checked> = neighbours.collect();
    let mut found = 0;
    for (at, one) in checked.iter().enumerate() {
        for other in checked.iter().skip(at + 1).chain(&neighbours) {
            for (ours, theirs) in one.policy.shared_names(&other.policy) {
                complain(&format_args!(
                    "error: rule {ours:?} of {} and rule {theirs:?} of {} can make containers of the same name, or names \
                     with the same beginning\n  = help: begin each name with a literal that no other agent uses, \
                     such as {{agent}}\n",
                    one.path.display(),
                    other.path.display()
                ));
                found += 1;
            }
            for (ours, theirs) in one.policy.shared_dirs(&other.policy) {
                complain(&format_args!(
                    "error: the spools {ours:?} of {} and {theirs:?} of {} are one directory, or one is beneath the other\n  \
                     = help: give each agent's spool a directory of its own: what is in it is taken once\n",
                    one.path.display(),
                    other.path.display()
                ));
                found += 1;
            }
        }
    }
    found
}
