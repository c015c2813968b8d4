//! Asking until there is an answer: what is busy or was restarted is asked again, with growing pauses, until a deadline.
//!
//! Asking twice is safe: a repeat of a launch joins the one under way or finds the container that runs. No connection is
//! held during a pause: a broker that is busy needs its places for others. Only an answer in pieces is not asked for again
//! once it has begun.

use crate::connection::{Connection, ConnectionError};
use portcullis_wire::{Body, Reply, Request, codec};
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// The first pause, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause, whoever asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The only question of each connection.
const ID: u64 = 1;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The request does not fit into a datagram.
    #[error("the command line is too long: a request may have 64 KiB")]
    TooLarge,
    /// There is nobody, and nobody has got the request.
    #[error("{}", io::Error::from(*.0))]
    Unreachable(Errno),
    /// There was somebody, who may have got the request, and is nobody any more.
    #[error("{}", io::Error::from(*.0))]
    Gone(Errno),
    /// Busy all the time.
    #[error("busy for {} s, {attempts} times in a row; try again when the host has less to do", waited.as_secs())]
    Busy {
        /// How long.
        waited: Duration,
        /// How often it was asked.
        attempts: u32,
    },
    /// Gone each time.
    #[error(
        "the connection was closed {attempts} times without an answer; the log on the host says why"
    )]
    Lost {
        /// How often it was asked.
        attempts: u32,
    },
    /// Silence.
    #[error("no answer for {} s; what was asked for may still be under way, and may be asked for again", waited.as_secs())]
    Late {
        /// How long.
        waited: Duration,
    },
    /// The answer is not one, or the machine fails.
    #[error("{0}; are this client and Portcullis on the host of the same version?")]
    Broken(ConnectionError),
    /// The end of an answer in pieces did not come.
    #[error("the answer broke off ({0}): what was written is not all of it")]
    BrokenOff(ConnectionError),
    /// A piece could not be written.
    #[error("standard output: {0}")]
    Output(io::Error),
}

/// Asks, and asks again, until there is an answer or the deadline has passed.
pub(crate) fn ask(path: &Path, body: Body, deadline: Instant) -> Result<Reply, AskError> {
    let (_, reply) = begin(path, body, deadline, Some(deadline))?;
    Ok(reply)
}

/// Asks for all pages of a list; they come as one. `more` is left where the other side gives no next page.
pub(crate) fn list(path: &Path, all: bool, deadline: Instant) -> Result<Reply, AskError> {
    let (mut rows, mut after) = (vec![], None);
    loop {
        let body = Body::List {
            all,
            after: after.clone(),
        };
        let (items, more) = match ask(path, body, deadline)? {
            Reply::Containers { items, more } => (items, more),
            reply => return Ok(reply),
        };
        let last = items.last().map(|item| item.name.clone());
        rows.extend(items);
        // Names that do not go on would be asked for for ever.
        if !more || last <= after {
            return Ok(Reply::Containers { items: rows, more });
        }
        after = last;
    }
}

/// Asks for an answer in pieces, and gives what ends it. `patience` is for the first piece, and then for each; with
/// `follow` it is only for finding somebody who answers. Once a piece was written nothing is asked again: it would be
/// written twice.
pub(crate) fn hear(
    path: &Path,
    body: Body,
    patience: Duration,
    follow: bool,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Reply, AskError> {
    let deadline = || Instant::now() + patience;
    let answer_by = || (!follow).then(deadline);
    let (mut connection, mut reply) = begin(path, body, deadline(), answer_by())?;
    while let Reply::Chunk { bytes } = reply {
        write(&bytes).map_err(AskError::Output)?;
        reply = connection.reply(answer_by()).map_err(AskError::BrokenOff)?;
    }
    Ok(reply)
}

/// Asks, and asks again until the deadline, until there is a reply that is not `Busy`: the first, and where more come.
fn begin(
    path: &Path,
    body: Body,
    deadline: Instant,
    answer_by: Option<Instant>,
) -> Result<(Connection, Reply), AskError> {
    let begin = Instant::now();
    let datagram = codec::encode(&Request { id: ID, body }).map_err(|_| AskError::TooLarge)?;
    let (mut attempts, mut reached, mut pause) = (0, false, FIRST_PAUSE);
    loop {
        attempts += 1;
        let waited = || begin.elapsed();
        let answered = Connection::ask(path, &datagram, ID, deadline)
            .and_then(|mut connection| Ok((connection.reply(answer_by)?, connection)));
        let (error, at_least) = match answered {
            Ok((Reply::Busy { retry_after }, _)) => {
                let at_least = Duration::from_millis(retry_after.into());
                let waited = waited();
                (AskError::Busy { waited, attempts }, at_least)
            }
            Ok((reply, connection)) => return Ok((connection, reply)),
            Err(ConnectionError::Lost) => (AskError::Lost { attempts }, Duration::ZERO),
            Err(ConnectionError::Late) => return Err(AskError::Late { waited: waited() }),
            // Where somebody was there a moment ago, it is being restarted.
            Err(ConnectionError::Unreachable(errno @ (Errno::CONNREFUSED | Errno::NOENT)))
                if reached =>
            {
                (AskError::Gone(errno), Duration::ZERO)
            }
            Err(ConnectionError::Unreachable(errno)) if reached => {
                return Err(AskError::Gone(errno));
            }
            Err(ConnectionError::Unreachable(errno)) => return Err(AskError::Unreachable(errno)),
            Err(error) => return Err(AskError::Broken(error)),
        };
        reached = true;
        let rest = jittered(pause.max(at_least).min(LONGEST_PAUSE));
        if Instant::now() + rest >= deadline {
            return Err(error);
        }
        sleep(rest);
        pause = pause.saturating_mul(2);
    }
}

/// Up to half as long again: those who were sent away together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let seed = now.subsec_nanos() ^ std::process::id().wrapping_mul(0x9E37_79B9);
    pause + pause * (seed % 512) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_never_shorter_and_at_most_half_as_long_again() {
        for milliseconds in [0, 1, 20, 5_000] {
            let pause = Duration::from_millis(milliseconds);
            let jittered = jittered(pause);
            assert!(
                pause <= jittered && jittered <= pause * 3 / 2,
                "{jittered:?}"
            );
        }
    }
}
