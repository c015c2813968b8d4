//! The operator's socket: root on the host asks what is, and launches nothing.
//!
//! Reachable through a 0700 directory alone, and each connection's peer is looked at again.

use crate::answer::failed;
use crate::listener::accept;
use crate::logs::{CHUNK, Log, Readers, chunk};
use crate::peer;
use crate::requests::explained;
use crate::service::{Service, key};
use crate::table::Stopping;
use portcullis_policy::Denial;
use portcullis_wire::{Body, DecodeError, Pong, Reason, Reply, Request, Target, codec};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many operators at once.
const MOST: usize = 16;
/// How many rows a page of a list has: at most some 900 bytes each, with the longest names.
const PAGE: usize = 64;
/// What a side container that an earlier life launched gets between the polite and the final signal.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody is let in after that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// The listener and who is connected.
#[derive(Debug)]
pub(crate) struct Operator {
    listener: OwnedFd,
    connections: Vec<(u64, OwnedFd)>,
    /// Until then nobody is let in, because that failed.
    closed_until: Option<Instant>,
    readers: Readers,
}

impl Operator {
    pub(crate) fn new(listener: OwnedFd) -> Self {
        Self {
            listener,
            connections: Vec::new(),
            closed_until: None,
            readers: Readers::default(),
        }
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn connected(&self) -> bool {
        !self.connections.is_empty() || self.readers.any()
    }
}

impl Service {
    /// Somebody connects to the operator's socket.
    pub(crate) fn operator_connects(&mut self) {
        let agent = self.options.agent.as_str();
        let client = match accept(self.operator.listener()) {
            Ok(Some(client)) => client,
            Ok(None) => return,
            Err(error) => {
                // For want of descriptors or memory: the listener stays readable, and trying at once would spin.
                tracing::warn!(agent, %error, "an operator's connection failed; the next is taken after a pause");
                self.operator.closed_until = Some(Instant::now() + PAUSE);
                let _ = epoll::delete(&self.epoll, self.operator.listener());
                return;
            }
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

    /// Lets operators in again when the pause is over; says when that will be.
    pub(crate) fn reopen_to_operators(&mut self, now: Instant) -> Option<Instant> {
        let until = self.operator.closed_until?;
        if now < until {
            return Some(until);
        }
        let added = self.add(key::OPERATOR, self.operator.listener());
        self.operator.closed_until = added.is_err().then(|| now + PAUSE);
        self.operator.closed_until
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
            _ => return self.operator_is_gone(at),
        };
        let request = match buffer.get(..length) {
            Some(datagram) => codec::decode_request(datagram),
            None => Err(DecodeError::TooLarge {
                what: "bytes in the datagram",
                limit: buffer.len(),
            }),
        };
        // Without a descriptor for the answer there is none, and the client sees that.
        let Ok(answer_to) = client.try_clone() else {
            return self.operator_is_gone(at);
        };
        match request {
            Ok(Request { id, body }) => self.operator_is_served(answer_to, id, body),
            Err(error) => {
                let reply = match error {
                    DecodeError::Version(_) => Reply::UnsupportedVersion {
                        spoken: vec![portcullis_wire::limits::VERSION],
                    },
                    error => refuse(error.reason(), &error.to_string()),
                };
                self.unread.answer(answer_to, 0, reply);
            }
        }
    }

    /// Forgets a connection. An answer that is still to come may hold a descriptor of it, so the poll loop has to be told.
    fn operator_is_gone(&mut self, at: usize) {
        let (_, client) = self.operator.connections.swap_remove(at);
        let _ = epoll::delete(&self.epoll, client);
    }

    /// Answers at once, or sees to it that somebody will.
    fn operator_is_served(&mut self, client: OwnedFd, id: u64, body: Body) {
        let reply = match body {
            Body::Stop { target, timeout } => match self.operator_stops(&target, timeout) {
                Ok(stopping) => return stopping.askers.push((client, id)),
                Err(reply) => *reply,
            },
            Body::Logs {
                target,
                tail,
                follow,
            } => match self.container_of(&target) {
                Ok(container) => {
                    let log = Log {
                        container,
                        tail,
                        follow,
                    };
                    let host = Arc::clone(&self.host);
                    return self.operator.readers.read(host, log, client, id);
                }
                Err(reply) => *reply,
            },
            Body::Metrics => {
                let bytes = self.metrics().into_bytes();
                let mut replies: Vec<_> = bytes.chunks(CHUNK).map(chunk).collect();
                replies.push(Reply::Done { exit: None });
                return self.unread.answer_in_order(client, id, replies);
            }
            body => self.operator_reply(body),
        };
        self.unread.answer(client, id, reply);
    }

    /// The full ID of the container that a target means. An error is what there is to answer.
    fn container_of(&self, target: &Target) -> Result<String, Box<Reply>> {
        let name = self.table.find(target).ok_or(Reply::NotFound)?;
        let entry = self.table.entries.get(name).ok_or(Reply::NotFound)?;
        // Where nobody knows yet what has the name, asking again soon is right.
        let live = entry.live().ok_or(Reply::Busy { retry_after: 500 })?;
        Ok(live.main.id.clone())
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
                    layers: confinement.layers.into_iter().map(str::to_owned).collect(),
                    landlock_abi: confinement.landlock_abi,
                    peer_identification: peer::method().to_owned(),
                })
            }
            Body::List { all, after } => {
                let (items, more) = self.table.page(all, after.as_deref(), PAGE);
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

    /// Asks a side container to end; whoever asked is told when it has.
    fn operator_stops(
        &mut self,
        target: &Target,
        timeout: Option<u32>,
    ) -> Result<&mut Stopping, Box<Reply>> {
        let busy = Box::new(Reply::Busy { retry_after: 500 });
        let Some(name) = self.table.find(target).map(str::to_owned) else {
            return Err(Box::new(Reply::NotFound));
        };
        let Some(entry) = self.table.entries.get_mut(&name) else {
            return Err(Box::new(Reply::NotFound));
        };
        // Where nobody knows yet what has the name, asking again soon is right.
        let main = &entry.live().ok_or(busy)?.main;
        let signalled = pidfd_send_signal(&main.pidfd, Signal::TERM);
        let (agent, rule) = (self.options.agent.as_str(), entry.rule.as_str());
        if let Err(errno @ (Errno::PERM | Errno::INVAL)) = signalled {
            tracing::error!(agent, name, %errno, "a side container could not be signalled");
            let message = "it could not be signalled; the log says why";
            return Err(Box::new(failed(Reason::Internal, message)));
        }
        tracing::info!(
            target: "portcullis::audit",
            agent,
            verdict = "stopping",
            rule,
            name,
            container = main.id,
            pid = main.pid,
            by = "operator",
            "stopping"
        );
        let patience = match (timeout, &entry.plan) {
            (Some(seconds), _) => Duration::from_secs(seconds.into()),
            (None, Some(plan)) => plan.stop_timeout(),
            (None, None) => PATIENCE,
        };
        let kill_at = Some(Instant::now() + patience);
        let stopping = entry.stopping.get_or_insert_with(|| Stopping {
            kill_at,
            askers: Vec::new(),
        });
        // Who asks again may be of less patience, and never gives the program more.
        stopping.kill_at = stopping.kill_at.min(kill_at);
        Ok(stopping)
    }

    /// Sends the final signal where the patience with a stop is over; says when it will be for the next one.
    pub(crate) fn end_patience(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for (name, entry) in &mut self.table.entries {
            let due = entry.stopping.as_ref().and_then(|stop| stop.kill_at);
            let Some(at) = due else { continue };
            if at > now {
                next = next.into_iter().chain([at]).min();
                continue;
            }
            if let Some(live) = entry.live() {
                tracing::warn!(
                    name,
                    "a side container did not end when asked to, and is killed"
                );
                let _ = pidfd_send_signal(&live.main.pidfd, Signal::KILL);
            }
            if let Some(stop) = &mut entry.stopping {
                stop.kill_at = None;
            }
        }
        next
    }

    /// Tells those who asked for a stop what came of it.
    pub(crate) fn tell_stopped(&mut self, stopping: Option<Stopping>, reply: &Reply) {
        for (client, id) in stopping.into_iter().flat_map(|stop| stop.askers) {
            self.unread.answer(client, id, reply.clone());
        }
    }
}

fn refuse(reason: Reason, message: &str) -> Reply {
    Denial::new(reason, None, message).reply()
}
