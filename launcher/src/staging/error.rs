//! What can go wrong in staging, and which of it is the request's fault.

pub use crate::walk::WalkError;

use portcullis_wire::Reason;
use rustix::io::Errno;
use std::io;
use std::path::PathBuf;

/// Why something could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The directory for the staging areas is not fit for it.
    #[error("{path:?} cannot hold the staging area: {problem}")]
    Parent {
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what mends it.
        problem: String,
    },
    /// The private tmpfs could not be made.
    #[error("the staging area {path:?} could not be made: {step}: {errno}")]
    Area {
        /// Where it was to be.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// How.
        errno: Errno,
    },
    /// What an earlier life left could not be removed.
    #[error("what an earlier launcher left at {path:?} could not be removed: {source}")]
    Sweep {
        /// What is left.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace's name is no name.
    #[error("{0:?} cannot be the name of a network namespace: one path component is")]
    NetnsName(String),
    /// The namespace's name leads nowhere, or not safely.
    #[error("the network namespace {path:?} cannot be opened: {error}")]
    NetnsOpen {
        /// The name, with the directory.
        path: PathBuf,
        /// Why.
        error: WalkError,
    },
    /// The name is not that of a namespace.
    #[error("{path:?} is no network namespace: it is {what}")]
    NetnsKind {
        /// The name, with the directory.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The name stands for the host's namespace, or the launcher's.
    #[error("{path:?} is the network namespace of the host or of the launcher itself")]
    NetnsHost {
        /// The name, with the directory.
        path: PathBuf,
    },
    /// It could not be found out which namespaces are the host's and the launcher's.
    #[error("{path} cannot be read, so no network namespace can be judged: {errno}")]
    NetnsJudge {
        /// What was asked.
        path: &'static str,
        /// Why it did not answer.
        errno: Errno,
    },
    /// The part of a source beneath its prefix is not a plain relative path.
    #[error("{0:?} cannot be a mount source: it has an empty, '.' or '..' component")]
    SourceName(PathBuf),
    /// A source leads nowhere, or not safely.
    #[error("the mount source {path:?} cannot be opened: {error}")]
    SourceOpen {
        /// The source.
        path: PathBuf,
        /// Why.
        error: WalkError,
    },
    /// A source is of a kind that is not mounted.
    #[error(
        "the mount source {path:?} is {what}; only directories, regular files and sockets are mounted"
    )]
    SourceKind {
        /// The source.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The kernel does not clone a source, or what is mounted beneath it, or does not shut the clone.
    #[error(
        "the mount source {path:?} cannot be cloned: {step}: {errno}; an unbindable mount cannot: findmnt -o TARGET,PROPAGATION"
    )]
    SourceClone {
        /// The source.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// How.
        errno: Errno,
    },
    /// What was found safe could not be moved into the staging area.
    #[error("{path:?} could not be staged: {step}: {errno}")]
    Stage {
        /// What was to be staged.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// How.
        errno: Errno,
    },
    /// A staged path could not be taken away.
    #[error("the staged {path:?} could not be taken away: {step}: {errno}")]
    Release {
        /// The staged path.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// How.
        errno: Errno,
    },
}

impl StagingError {
    /// The reason code that the client is told.
    #[must_use]
    pub fn reason(&self) -> Reason {
        // Running out of descriptors, memory or mounts says nothing about what was named.
        let out = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOSPC];
        let ours = |errno: Option<Errno>| errno.is_some_and(|errno| out.contains(&errno));
        match self {
            Self::NetnsOpen { error, .. } | Self::SourceOpen { error, .. }
                if ours(error.errno()) =>
            {
                Reason::Internal
            }
            Self::SourceClone { errno, .. } if ours(Some(*errno)) => Reason::Internal,
            Self::NetnsName(_)
            | Self::NetnsOpen { .. }
            | Self::NetnsKind { .. }
            | Self::NetnsHost { .. } => Reason::Netns,
            Self::SourceName(_)
            | Self::SourceOpen { .. }
            | Self::SourceKind { .. }
            | Self::SourceClone { .. } => Reason::Mount,
            Self::Parent { .. }
            | Self::Area { .. }
            | Self::Sweep { .. }
            | Self::NetnsJudge { .. }
            | Self::Stage { .. }
            | Self::Release { .. } => Reason::Internal,
        }
    }
}
