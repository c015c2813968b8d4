//! Why a launch was not written into its spool, and what became of the file.

use crate::line::LineError;
use portcullis_wire::limits::SPOOL;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a launch was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// There is no such directory.
    #[error("there is no spool at {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be a line.
    #[error(transparent)]
    Line(#[from] LineError),
    /// Something else stands in the place of a file.
    #[error("{} is {what}, and a regular file has to be there; nothing was written", path.display())]
    NotRegular {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The host takes lines from no such file.
    #[error(
        "{} is, or would be, user {owner}'s, and the host takes lines from a file of root's or of the directory's owner, {of_dir}; nothing was written; on the host, chown the directory to the user that writes there",
        path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose its directory is.
        of_dir: u32,
    },
    /// Somebody has the lock.
    #[error(
        "the lock {} was not to be had for {} s, and nothing was written; lslocks says who has it, and the launch may be tried again",
        path.display(), waited.as_secs()
    )]
    Held {
        /// The lock.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The host does not take what is there.
    #[error(
        "{} has {length} bytes that the host has not taken, and {SPOOL} are the most; nothing was written; does portcullis@AGENT.service run on the host, and what does it say?",
        path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// How many it has.
        length: u64,
    },
    /// The file is as it was.
    #[error("{0}; nothing was written")]
    Failed(#[from] Failure),
    /// The file is not as it was.
    #[error(
        "{failure}; and what was written cannot be taken back ({back}), so that the host may start it all the same"
    )]
    NotTakenBack {
        /// What failed at first.
        failure: Failure,
        /// How the rest failed.
        back: io::Error,
    },
}

/// A system call that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {error}", path.display())]
pub(crate) struct Failure {
    what: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// Says what was tried, and with which file.
pub(crate) fn failed<E: Into<io::Error>>(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> Failure {
    move |error| Failure {
        what,
        path: path.to_owned(),
        error: error.into(),
    }
}
