//! Asking until there is an answer: what is busy or was restarted is asked again, with growing pauses, until a deadline.
//!
//! Asking twice is safe: a repeat of a launch joins the one under way or finds the container that runs. No connection is
//! held during a pause: a broker that is busy needs its places for others.

use crate::connection::{self, ConnectionError};
use portcullis_wire::{Body, Reply, Request, codec};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};
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
    /// There is no broker.
    #[error("no broker at {}: {error}; {}", path.display(), unreachable_advice(*errno))]
    NoBroker {
        /// Where it was looked for.
        path: PathBuf,
        /// Why there is none.
        errno: Errno,
        /// The same, for a person.
        error: io::Error,
    },
    /// It was busy all the time.
    #[error("the broker was busy for {} s, {attempts} times in a row; try again when the host has less to do", waited.as_secs())]
    Busy {
        /// How long.
        waited: Duration,
        /// How often it was asked.
        attempts: u32,
    },
    /// It went away each time.
    #[error(
        "the broker closed the connection {attempts} times without an answer; its log on the host says why"
    )]
    Lost {
        /// How often it was asked.
        attempts: u32,
    },
    /// It did not answer.
    #[error("no answer from the broker for {} s; what was asked for may still be under way, and may be asked for again", waited.as_secs())]
    Late {
        /// How long.
        waited: Duration,
    },
    /// The answer is not one, or the machine fails.
    #[error("{0}; are this client and the broker of the same version?")]
    Broken(ConnectionError),
}

fn unreachable_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS | Errno::PERM => "this user may not use it",
        Errno::PROTOTYPE => "this is some other program's socket",
        Errno::CONNREFUSED => {
            "nobody listens on it: the operator has to start portcullis@AGENT.socket on the host"
        }
        Errno::NAMETOOLONG => "a socket's path has at most 107 bytes",
        _ => {
            "the operator has to mount the agent's directory of /run/portcullis there, and to start portcullis@AGENT.socket"
        }
    }
}

/// Asks, and asks again, until there is an answer or the deadline has passed.
pub(crate) fn ask(path: &Path, body: &Body, deadline: Instant) -> Result<Reply, AskError> {
    let begin = Instant::now();
    let request = Request {
        id: ID,
        body: body.clone(),
    };
    let datagram = codec::encode(&request).map_err(|_| AskError::TooLarge)?;
    let (mut attempts, mut reached, mut pause) = (0, false, FIRST_PAUSE);
    loop {
        attempts += 1;
        let waited = || begin.elapsed();
        let (error, at_least) = match connection::ask(path, &datagram, ID, deadline) {
            Ok(response) => match response.reply {
                Reply::Busy { retry_after } => {
                    let at_least = Duration::from_millis(retry_after.into());
                    let waited = waited();
                    (AskError::Busy { waited, attempts }, at_least)
                }
                reply => return Ok(reply),
            },
            Err(ConnectionError::Lost) => (AskError::Lost { attempts }, Duration::ZERO),
            Err(ConnectionError::Late) => return Err(AskError::Late { waited: waited() }),
            Err(ConnectionError::Unreachable(errno)) => {
                let error = AskError::NoBroker {
                    path: path.to_owned(),
                    errno,
                    error: errno.into(),
                };
                // Somebody was there a moment ago: it is being restarted.
                if !reached || !matches!(errno, Errno::CONNREFUSED | Errno::NOENT) {
                    return Err(error);
                }
                (error, Duration::ZERO)
            }
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
