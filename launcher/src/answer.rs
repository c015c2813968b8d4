//! Answers on a client's own socket. They never block: a client that does not read gets some time, then nothing.

use crate::connections::Connection;
use portcullis_wire::{Failure, Reason, Reply, Response, codec};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a client may leave its answers unread.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many such answers are kept, in all.
const MOST: usize = 256;

/// Who is answered.
#[derive(Debug)]
pub enum Receiver {
    /// A client of the agent.
    Client(Rc<Connection>),
    /// An operator.
    Operator(OwnedFd),
}

impl From<Rc<Connection>> for Receiver {
    fn from(client: Rc<Connection>) -> Self {
        Self::Client(client)
    }
}

impl From<OwnedFd> for Receiver {
    fn from(operator: OwnedFd) -> Self {
        Self::Operator(operator)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Client(client) => client.as_fd(),
            Self::Operator(operator) => operator.as_fd(),
        }
    }
}

/// Answers that their clients have not made room for yet.
#[derive(Debug, Default)]
pub struct Unread(Vec<(Receiver, VecDeque<Vec<u8>>, Instant)>);

/// Sends as many answers as there is room for; whether that was all of them.
fn try_send(client: BorrowedFd<'_>, datagrams: &mut VecDeque<Vec<u8>>) -> bool {
    while let Some(bytes) = datagrams.front() {
        match send(client, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            // Sent, or there is nobody any more to send it to.
            _ => {
                datagrams.pop_front();
            }
        }
    }
    true
}

/// That something did not work.
pub(crate) fn failed(reason: Reason, message: &str) -> Reply {
    Reply::Failed(Failure {
        reason,
        exit: None,
        message: message.to_owned(),
        output: String::new(),
    })
}

/// Ends a connection on which an answer is missing: its client sees that, and asks again.
fn give_up(client: BorrowedFd<'_>) {
    let _ = shutdown(client, Shutdown::Both);
}

impl Unread {
    /// Answers a request.
    pub fn answer(&mut self, client: impl Into<Receiver>, id: u64, reply: Reply) {
        self.answer_in_order(client, id, [reply]);
    }

    /// Answers a request with several replies, none before the one before it.
    pub fn answer_in_order(
        &mut self,
        client: impl Into<Receiver>,
        id: u64,
        replies: impl IntoIterator<Item = Reply>,
    ) {
        let client = client.into();
        // Every reply that is made in this crate fits, because its texts are cut; if one does not, that is said.
        let too_large = || {
            tracing::error!(id, "an answer was too large to be sent");
            let message = "the answer was too large to be sent; the launcher's log says so, too";
            let reply = failed(Reason::Internal, message);
            codec::encode(&Response { id, reply })
        };
        let mut datagrams = replies
            .into_iter()
            .filter_map(|reply| {
                codec::encode(&Response { id, reply })
                    .or_else(|_| too_large())
                    .ok()
            })
            .collect();
        if try_send(client.as_fd(), &mut datagrams) {
            return;
        }
        if self.0.len() < MOST {
            self.0.push((client, datagrams, Instant::now() + PATIENCE));
        } else {
            tracing::warn!(
                id,
                "an answer was dropped: too many clients do not read theirs"
            );
            give_up(client.as_fd());
        }
    }

    /// Tries again; those whose time is over are given up.
    pub fn retry(&mut self) {
        let now = Instant::now();
        self.0.retain_mut(|(client, datagrams, until)| {
            let sent = try_send(client.as_fd(), datagrams);
            if !sent && now >= *until {
                give_up(client.as_fd());
            }
            !sent && now < *until
        });
    }

    /// Whether any are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
