//! One client: its datagrams are taken one after the other, and each is answered or handed over before the next.
//!
//! A client that does not read its replies is not read either, and after a while it is left. One that sends without pause
//! gives way to the others after every few datagrams.

use crate::denials::Asker;
use crate::judgement::{self, Verdict};
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

/// So many receives of one connection may be interrupted, and one more for each thousand.
const INTERRUPTED: u32 = 3;

/// How long a reply waits for a client that does not read.
const UNREAD: Duration = Duration::from_secs(10);

/// How often it is tried again meanwhile. A client's socket is watched for reading alone: see the server.
const UNREAD_AGAIN: Duration = Duration::from_millis(20);

/// When to ask again while the launcher is busy, in milliseconds.
const LAUNCHER_BUSY: u32 = 250;

/// One client.
#[derive(Debug)]
pub struct Connection {
    /// Its number, by which the launcher knows it.
    pub number: u64,
    /// A copy of its socket; the launcher has the other one.
    pub socket: AsyncFd<OwnedFd>,
    /// The kernel lets its client attach no descriptors.
    pub guarded: bool,
    /// The process that connected, as the kernel noted it then. One that it hands the socket to counts as the same.
    pub peer: Peer,
    /// The same, for the record.
    pub asker: Asker,
    /// Why it may not use the socket, if it may not.
    pub refused: Option<Denial>,
    /// How many datagrams were received, and how many of those receives were interrupted because they took long.
    pub received: Cell<(u32, u32)>,
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
    End,
}

/// How a turn ended.
#[derive(PartialEq)]
enum Turn {
    /// There is nothing more now.
    Empty,
    /// There may be more.
    Used,
    /// The connection is over.
    End,
}

/// What one look at the socket came to, and what it cost.
struct Look {
    step: Step,
    /// How long the datagram was, in bytes.
    length: usize,
    /// Nothing more is looked at on this connection.
    last: bool,
}

impl From<Step> for Look {
    fn from(step: Step) -> Self {
        Self {
            step,
            length: 0,
            last: false,
        }
    }
}

impl Connection {
    /// Serves the client until it leaves, is silent for too long, or does not read.
    pub async fn serve(&self, service: &Service) {
        // One that has just connected has most likely asked already.
        if self.turn(service).await == Turn::End {
            return;
        }
        while let Ok(mut ready) = self.socket.readable().await {
            match self.turn(service).await {
                Turn::End => return,
                Turn::Empty => ready.clear_ready(),
                Turn::Used => {}
            }
            tokio::task::yield_now().await;
        }
    }

    /// As much as one connection gets before the others.
    async fn turn(&self, service: &Service) -> Turn {
        let mut left = TURN;
        while left > 0 {
            let look = self.look(service);
            let pieces = 1 + look.length / PIECE;
            left = left.saturating_sub(pieces);
            match look.step {
                Step::Handled => {}
                Step::Nothing => return Turn::Empty,
                Step::Reply(bytes) => {
                    if self.reply(&bytes).await.is_err() {
                        return Turn::End;
                    }
                }
                Step::End => return Turn::End,
            }
            if look.last {
                // What else it has sent is read only where reading it cannot block.
                if self.guarded {
                    socket::discard(self.socket.as_fd(), true);
                }
                return Turn::End;
            }
            // Charged after the answer, so that a client that asks now and then never waits.
            self.pause(service.charge(pieces)).await;
        }
        Turn::Used
    }

    /// Waits for so long, or until nothing more is let in: what has arrived by then is bounded, and nobody waits for the end
    /// longer than it takes. It has been charged all the same, so those who stay wait for it.
    pub async fn pause(&self, wait: Duration) {
        if !wait.is_zero() && !self.ending.get() {
            let _ = timeout(wait, self.ended.notified()).await;
        }
    }

    /// Takes one datagram. Waits for nothing.
    fn look(&self, service: &Service) -> Look {
        let mut buffer = service.buffer.borrow_mut();
        // A refused client gets one answer. Where its datagrams could block, they stay in the queue, so that it cannot hold
        // up anybody.
        let untaken = !self.guarded && self.refused.is_some();
        let (received, blocked) = if untaken {
            (socket::peek(self.socket.as_fd(), &mut buffer), false)
        } else {
            socket::receive(self.socket.as_fd(), &mut buffer, self.guarded)
        };
        let (verdict, datagram) = match received {
            Received::Nothing => return Step::Nothing.into(),
            Received::End => return Step::End.into(),
            Received::Empty => (judgement::empty(), &[][..]),
            Received::Datagram(length) => {
                self.heard.set(Instant::now());
                let datagram = buffer.get(..length).unwrap_or_default();
                let mut judge = service.judge.borrow_mut();
                let verdict = judge.judge(datagram, &self.peer, self.refused.as_ref());
                (verdict, datagram)
            }
        };
        Look {
            step: self.answer(service, verdict, datagram),
            length: datagram.len(),
            last: self.refused.is_some() || self.blocks(blocked) || received == Received::Empty,
        }
    }

    /// Whether its datagrams block the receiver. On a busy machine a receive may take long, too, but not often.
    fn blocks(&self, this_one: bool) -> bool {
        let (received, interrupted) = self.received.get();
        let now = (
            received.saturating_add(1),
            interrupted.saturating_add(u32::from(this_one)),
        );
        self.received.set(now);
        this_one && now.1 > INTERRUPTED + now.0 / 1000
    }

    fn answer(&self, service: &Service, verdict: Verdict, datagram: &[u8]) -> Step {
        let response = match verdict {
            Verdict::Answer(response) => response,
            Verdict::Refuse(response, refusal) => {
                service.refused(refusal, self.asker);
                response
            }
            Verdict::Forward(id) => {
                match service.forward(datagram, socket::monotonic_micros(), self.number) {
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
