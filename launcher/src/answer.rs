//! Answers on a client's own socket. They never block: a client that does not read gets some time, then nothing.

use portcullis_wire::{Reply, Response, codec};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a client may leave its answers unread.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many such answers are kept, in all.
const MOST: usize = 256;

/// Answers that their clients have not made room for yet.
#[derive(Debug, Default)]
pub struct Unread(Vec<(OwnedFd, Vec<u8>, Instant)>);

/// Sends an answer, if there is room for it.
fn try_send(client: BorrowedFd<'_>, bytes: &[u8]) -> bool {
    loop {
        match send(client, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            // Sent, or there is nobody any more to send it to.
            _ => return true,
        }
    }
}

impl Unread {
    /// Answers a request.
    pub fn answer(&mut self, client: OwnedFd, id: u64, reply: Reply) {
        // Every reply that is made in this crate fits: its texts are cut.
        let Ok(bytes) = codec::encode(&Response { id, reply }) else {
            tracing::error!(id, "an answer was too large to be sent");
            return;
        };
        if try_send(rustix::fd::AsFd::as_fd(&client), &bytes) {
            return;
        }
        if self.0.len() < MOST {
            self.0.push((client, bytes, Instant::now() + PATIENCE));
        } else {
            tracing::warn!(
                id,
                "an answer was dropped: too many clients do not read theirs"
            );
        }
    }

    /// Tries again; those whose time is over are given up.
    pub fn retry(&mut self) {
        let now = Instant::now();
        self.0.retain(|(client, bytes, until)| {
            !try_send(rustix::fd::AsFd::as_fd(client), bytes) && now < *until
        });
    }

    /// Whether any are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
