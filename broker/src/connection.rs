//! One client: its datagrams are taken one after the other, and each is answered or handed over before the next.
//!
//! A client that does not read its replies is not read either, and after a while it is left. One that sends without pause
//! gives way to the others after every few datagrams.

use crate::denials::Asker;
use crate::judgement::{self, Envelope, Verdict};
use crate::link::LinkError;
use crate::service::Service;
use crate::socket::{self, Received};
use portcullis_policy::{Denial, Peer};
use portcullis_wire::{Reply, Response, codec};
use rustix::io::Errno;
use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::timeout;

/// So much work in a row, then the other connections. A datagram is one piece of it, and one more for each [`PIECE`] bytes:
/// of the longest, which take longest to judge, come one or two.
const TURN: usize = 32;

/// In bytes.
const PIECE: usize = 2048;

/// How long a reply waits for a client that does not read.
const UNREAD: Duration = Duration::from_secs(10);

/// How often it is tried again meanwhile. A client's socket is watched for reading alone: see the server.
const UNREAD_AGAIN: Duration = Duration::from_millis(20);

/// When to ask again while the launcher is busy, in milliseconds.
const LAUNCHER_BUSY: u32 = 250;

/// One client.
#[derive(Debug)]
pub struct Connection {
    /// Its socket.
    pub socket: AsyncFd<OwnedFd>,
    /// The process that connected, as the kernel noted it then. One that it hands the socket to counts as the same.
    pub peer: Peer,
    /// The same, for the record.
    pub asker: Asker,
    /// Why it may not use the socket, if it may not.
    pub refused: Option<Denial>,
    /// When it was last heard.
    pub heard: Cell<Instant>,
    /// Nothing more is let in.
    pub ending: Cell<bool>,
    /// Tells of that.
    pub ended: Notify,
}

/// What one look at the socket came to.
enum Step {
    Nothing,
    Handled,
    Reply(Vec<u8>),
    /// The reply, and then the end.
    LastReply(Vec<u8>),
    End,
}

impl Connection {
    /// Serves the client until it leaves, is silent for too long, or does not read.
    pub async fn serve(&self, service: &Service) {
        while let Ok(mut ready) = self.socket.readable().await {
            let mut left = TURN;
            while left > 0 {
                let (step, length) = self.step(service);
                let pieces = 1 + length / PIECE;
                left = left.saturating_sub(pieces);
                match step {
                    Step::Handled => {}
                    Step::Nothing => {
                        ready.clear_ready();
                        break;
                    }
                    Step::Reply(bytes) => {
                        if self.reply(&bytes).await.is_err() {
                            return;
                        }
                    }
                    Step::LastReply(bytes) => {
                        let _ = self.reply(&bytes).await;
                        return socket::discard(self.socket.as_fd());
                    }
                    Step::End => return,
                }
                // Once it is answered: whoever asks now and then never waits for it.
                self.pause(service.charge(pieces)).await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for so long, or until nothing more is let in: what has arrived by then is bounded, and nobody waits for the end
    /// longer than it takes. It has been charged all the same, so those who stay wait for it.
    async fn pause(&self, wait: Duration) {
        if !wait.is_zero() && !self.ending.get() {
            let _ = timeout(wait, self.ended.notified()).await;
        }
    }

    /// Takes one datagram, and says how long it was. Waits for nothing.
    fn step(&self, service: &Service) -> (Step, usize) {
        let mut buffer = service.buffer.borrow_mut();
        let (length, cut, attached) = match socket::receive(self.socket.as_fd(), &mut buffer) {
            Received::Nothing => return (Step::Nothing, 0),
            Received::End => return (Step::End, 0),
            Received::Empty => {
                let last = match self.answer(service, judgement::empty(), &[]) {
                    Step::Reply(bytes) => Step::LastReply(bytes),
                    other => other,
                };
                return (last, 0);
            }
            Received::Datagram {
                length,
                cut,
                attached,
            } => (length, cut, attached),
        };
        self.heard.set(Instant::now());
        let datagram = buffer.get(..length).unwrap_or_default();
        let envelope = Envelope { cut, attached };
        let verdict =
            service
                .judge
                .borrow_mut()
                .judge(datagram, envelope, &self.peer, self.refused.as_ref());
        (self.answer(service, verdict, datagram), length)
    }

    fn answer(&self, service: &Service, verdict: Verdict, datagram: &[u8]) -> Step {
        let response = match verdict {
            Verdict::Answer(response) => response,
            Verdict::Refuse(response, refusal) => {
                service.refused(refusal, self.asker);
                response
            }
            Verdict::Forward(id) => {
                match service.forward(datagram, socket::monotonic_micros(), self) {
                    Ok(()) => return Step::Handled,
                    Err(LinkError::Gone) => return Step::End,
                    Err(LinkError::Full) => Response {
                        id,
                        reply: Reply::Busy {
                            retry_after: LAUNCHER_BUSY,
                        },
                    },
                }
            }
        };
        // No reply is longer than a datagram: the longest text in one is cut by the policy.
        codec::encode(&response).map_or(Step::End, Step::Reply)
    }

    async fn reply(&self, bytes: &[u8]) -> Result<(), Errno> {
        let since = Instant::now();
        loop {
            match socket::answer(self.socket.as_fd(), bytes) {
                Err(Errno::AGAIN) if since.elapsed() < UNREAD => {
                    tokio::time::sleep(UNREAD_AGAIN).await
                }
                done => return done,
            }
        }
    }
}
