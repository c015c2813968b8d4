//! The operator's socket: root on the host asks what is, and launches nothing.
//!
//! Reachable through a 0700 directory alone, and each connection's peer is looked at again.

use crate::listener::accept;
use crate::peer;
use crate::requests::explained;
use crate::service::{Service, key};
use portcullis_policy::Denial;
use portcullis_wire::{Body, DecodeError, Pong, Reason, Reply, Request, codec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many operators at once.
const MOST: usize = 16;
/// How many rows a page of a list has: some 300 bytes each.
const PAGE: usize = 128;

/// The listener and who is connected.
#[derive(Debug)]
pub(crate) struct Operator {
    listener: OwnedFd,
    connections: Vec<(u64, OwnedFd)>,
}

impl Operator {
    pub(crate) fn new(listener: OwnedFd) -> Self {
        Self {
            listener,
            connections: Vec::new(),
        }
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn connected(&self) -> bool {
        !self.connections.is_empty()
    }
}

impl Service {
    /// Somebody connects to the operator's socket.
    pub(crate) fn operator_connects(&mut self) {
        let agent = self.options.agent.as_str();
        let client = match accept(self.operator.listener()) {
            Ok(Some(client)) => client,
            Ok(None) => return,
            Err(error) => return tracing::warn!(agent, %error, "an operator's connection failed"),
        };
        match peer::of(client.as_fd()) {
            Ok(peer) if peer.uid == 0 => {}
            Ok(peer) => {
                let (uid, pid) = (peer.uid, peer.pid);
                return tracing::warn!(
                    agent,
                    uid,
                    pid,
                    "refused on the operator's socket: not root"
                );
            }
            Err(error) => return tracing::warn!(agent, %error, "refused on the operator's socket"),
        }
        if self.operator.connections.len() >= MOST {
            return tracing::warn!(
                agent,
                "refused on the operator's socket: too many connections"
            );
        }
        let key = key::CONNECTION + self.next_key;
        self.next_key += 1;
        if self.add(key, client.as_fd()).is_ok() {
            self.operator.connections.push((key, client));
        }
    }

    /// A connected operator asks something, or is gone.
    pub(crate) fn operator_asks(&mut self, key: u64, buffer: &mut [u8]) {
        let find = |(k, _): &(u64, OwnedFd)| *k == key;
        let Some(at) = self.operator.connections.iter().position(find) else {
            return;
        };
        let Some((_, client)) = self.operator.connections.get(at) else {
            return;
        };
        let length = match recv(client, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok((_, length)) if length > 0 => length,
            _ => {
                self.operator.connections.swap_remove(at);
                return;
            }
        };
        let request = match buffer.get(..length) {
            Some(datagram) => codec::decode_request(datagram),
            None => Err(DecodeError::TooLarge {
                what: "bytes in the datagram",
                limit: buffer.len(),
            }),
        };
        let Ok(answer_to) = client.try_clone() else {
            return;
        };
        let (id, reply) = match request {
            Ok(Request { id, body }) => (id, self.operator_reply(body)),
            Err(DecodeError::Version(_)) => {
                let spoken = vec![portcullis_wire::limits::VERSION];
                (0, Reply::UnsupportedVersion { spoken })
            }
            Err(error) => (
                0,
                Denial::new(error.reason(), None, &error.to_string()).reply(),
            ),
        };
        self.unread.answer(answer_to, id, reply);
    }

    fn operator_reply(&self, body: Body) -> Reply {
        match body {
            Body::Ping => {
                let confinement = self.confinement();
                Reply::Pong(Pong {
                    agent: self.options.agent.as_str().to_owned(),
                    generation: self
                        .policy
                        .as_ref()
                        .map_or("", |p| p.generation())
                        .to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    layers: confinement.layers,
                    landlock_abi: confinement.landlock_abi,
                    peer_identification: peer::method().to_owned(),
                })
            }
            Body::List { after, .. } => {
                let (items, more) = self.table.page(after.as_deref(), PAGE);
                Reply::Containers { items, more }
            }
            Body::Launch(launch) if launch.dry_run => match &self.policy {
                Some(policy) => explained(&launch, policy),
                None => refuse(
                    Reason::PolicyUnavailable,
                    "the launcher's log says what is wrong with it",
                ),
            },
            Body::Launch(_) => refuse(
                Reason::Unsupported,
                "the operator's socket launches nothing; `explain` says what a launch would do",
            ),
            _ => refuse(
                Reason::Unsupported,
                "this version does not serve that request",
            ),
        }
    }
}

fn refuse(reason: Reason, message: &str) -> Reply {
    Denial::new(reason, None, message).reply()
}
