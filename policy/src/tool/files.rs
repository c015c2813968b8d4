//! The files of a policy on disk: `AGENT.toml`, and `AGENT.d/*.toml` beside it.

use crate::{Policy, Problems};
use portcullis_wire::{AgentName, BadAgentName, PolicyText};
use std::path::{Path, PathBuf};

/// Where the operator's policies are.
pub(super) const DIRECTORY: &str = "/etc/portcullis/agents";

/// Files that could not be found or read, or are no policy.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    /// A file could not be read.
    #[error("{path}: cannot be read: {cause}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A directory could not be listed.
    #[error("{path}: cannot be listed: {cause}")]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file's name names no agent.
    #[error("{path}: the file's name is the agent's: {cause}")]
    Agent {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: BadAgentName,
    },
    /// There are errors in it.
    #[error("{0}")]
    Policy(Problems),
}

/// The `.toml` files of a directory, by name.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, FilesError> {
    let failed = |cause| FilesError::List {
        path: directory.to_owned(),
        cause,
    };
    let mut found = Vec::new();
    for entry in directory.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The agent that a file is for.
pub(super) fn agent_of(path: &Path) -> Result<AgentName, FilesError> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    AgentName::new(&stem).map_err(|cause| FilesError::Agent {
        path: path.to_owned(),
        cause,
    })
}

/// The policy at `path`, with its drop-ins.
pub(super) fn load(path: &Path) -> Result<Policy, FilesError> {
    let agent = agent_of(path)?;
    Policy::load(&agent, &read(path)?).map_err(FilesError::Policy)
}

/// A policy's texts: the file, then its drop-ins.
pub(super) fn read(path: &Path) -> Result<Vec<PolicyText>, FilesError> {
    let mut texts = vec![read_one(path)?];
    texts.extend(read_drop_ins(path)?);
    Ok(texts)
}

/// The drop-ins of the policy at `path`, which need not be there itself.
pub(super) fn read_drop_ins(path: &Path) -> Result<Vec<PolicyText>, FilesError> {
    let directory = path.with_extension("d");
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    list(&directory)?
        .iter()
        .map(|path| read_one(path))
        .collect()
}

/// The policy that would be there if `file` stood at `place`, which is a policy's path or a drop-in's: the policy's path, and
/// its texts. `file` speaks under `place`'s name.
pub(super) fn read_as(file: &Path, place: &Path) -> Result<(PathBuf, Vec<PolicyText>), FilesError> {
    let draft = PolicyText {
        path: place.display().to_string(),
        text: read_one(file)?.text,
    };
    let directory = place.parent().filter(|directory| {
        let extension = directory.extension();
        extension.is_some_and(|extension| extension == "d")
    });
    let Some(directory) = directory else {
        let mut texts = vec![draft];
        texts.extend(read_drop_ins(place)?);
        return Ok((place.to_owned(), texts));
    };
    let policy = directory.with_extension("toml");
    let mut texts = read(&policy)?;
    texts.retain(|text| text.path != draft.path);
    // After the policy itself, in the order of names.
    let at = texts
        .iter()
        .skip(1)
        .take_while(|text| text.path < draft.path)
        .count();
    texts.insert(1 + at, draft);
    Ok((policy, texts))
}

/// One file.
pub(super) fn read_one(path: &Path) -> Result<PolicyText, FilesError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(PolicyText {
            path: path.display().to_string(),
            text,
        }),
        Err(cause) => Err(FilesError::Read {
            path: path.to_owned(),
            cause,
        }),
    }
}
