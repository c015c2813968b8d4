//! How many side containers all agents of this host have, by their launch records.
//!
//! podman has a lock for each container, and no more than its configuration says, for all agents and everybody else.

use crate::attempt::NotStarted;
use crate::launch::Host;
use portcullis_wire::Reason;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

impl Host {
    /// Refuses what the host has no room for; the launch that asks is on record already.
    pub(crate) fn see_room(&self) -> Result<(), NotStarted> {
        let most = self.engine.config().containers;
        let number = count(&self.agents).map_err(|error| {
            let message = "the host's side containers cannot be counted; the audit record says why";
            NotStarted::new(Reason::Internal, message, error)
        })?;
        if number <= usize::try_from(most).unwrap_or(usize::MAX) {
            return Ok(());
        }
        let message = format!(
            "the host has no room for another side container: [engine] containers = {most}"
        );
        let detail = format!(
            "all agents together have {} launch records beneath {}; end what is not needed, or raise `containers` in the \
             host's configuration, and num_locks in containers.conf beyond it",
            number.saturating_sub(1),
            self.agents.display()
        );
        Err(NotStarted::new(Reason::LimitRunning, message, detail).denied())
    }
}

/// What could not be counted.
#[derive(Debug, thiserror::Error)]
#[error("list {path}: {error}")]
pub struct CensusError {
    path: PathBuf,
    error: io::Error,
}

/// Counts the launch records beneath the directory that has the agents' state directories in it.
///
/// # Errors
/// [`CensusError`]: some are not known.
pub fn count(agents: &Path) -> Result<usize, CensusError> {
    let mut number = 0;
    for agent in list(agents)? {
        for record in list(&agent.join("records"))? {
            number += usize::from(record.extension().is_some_and(|e| e == "json"));
        }
    }
    Ok(number)
}

/// What is in a directory; nothing where there is none.
fn list(path: &Path) -> Result<Vec<PathBuf>, CensusError> {
    let paths = || -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    match paths() {
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            Ok(Vec::new())
        }
        other => other.map_err(|error| CensusError {
            path: path.to_owned(),
            error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_of_all_agents_count_and_nothing_else_does() {
        let agents = tempfile::tempdir().unwrap();
        let path = |name: &str| agents.path().join(name);
        assert_eq!(count(agents.path()).unwrap(), 0);
        for name in ["blue/records", "blue/locks", "green/records", "new"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for name in [
            "blue/records/a.json",
            "blue/records/b.json",
            "green/records/a.json",
            "green/records/c.new",
            "blue/locks/a",
            "blue/lock",
            "notes",
        ] {
            fs::write(path(name), "").unwrap();
        }
        assert_eq!(count(agents.path()).unwrap(), 3);
    }
}
