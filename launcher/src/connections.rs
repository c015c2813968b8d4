//! The agent's connections: accepted here, and handed to a broker as copies with a number.
//!
//! The listener is never anybody else's. What a connection is and who opened it is known from having accepted it, so a
//! broker's word decides about neither: it names connections by their numbers, and only those that it was handed. Nothing
//! is read from them here.

mod release;

use crate::bucket::Bucket;
use crate::listener::accept;
use crate::peer::{self, Credentials, PeerError, PeerIdentity};
use crate::service::{Service, key};
use crate::supervise::Child;
use portcullis_policy::Rate;
use portcullis_wire::{Accepted, limits};
use release::release;
use rustix::event::epoll;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// So many in a row, then everybody else.
const TURN: usize = 64;
/// How long nobody is accepted after that failed: for want of descriptors or memory, trying at once would spin.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a connection waits that the link has no room for.
const LINK_FULL: Duration = Duration::from_millis(5);
/// How fast an agent's connections are accepted in the long run, and how many at once. Each costs both halves a turn, so
/// that is half of the work that a broker takes.
const PACE: Rate = Rate {
    count: 5_000,
    per: Duration::from_secs(2),
};

/// A connection of a client. The last owner closes it.
#[derive(Debug)]
pub struct Connection {
    socket: ManuallyDrop<OwnedFd>,
    /// Whom the kernel noted at `connect`, as numbers that may be out of date by now.
    pub(crate) credentials: Credentials,
    peer: OnceCell<Result<PeerIdentity, PeerError>>,
    guarded: bool,
}

impl Connection {
    fn new(socket: OwnedFd) -> Result<Self, PeerError> {
        // Where the listener had it before the client connected, the connection has it, and nothing can be queued.
        let guarded = refuses_descriptors(socket.as_fd())
            || refuse_descriptors(socket.as_fd()) && !release::holds_descriptors(socket.as_fd());
        let credentials = peer::credentials(socket.as_fd())?;
        Ok(Self {
            socket: ManuallyDrop::new(socket),
            credentials,
            peer: OnceCell::new(),
            guarded,
        })
    }

    /// The process that connected, or why it cannot be known. It is identified once.
    pub(crate) fn peer(&self) -> &Result<PeerIdentity, PeerError> {
        self.peer.get_or_init(|| peer::of(self.as_fd()))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Connection {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the field is not used again: this is its owner's end.
        let socket = unsafe { ManuallyDrop::take(&mut self.socket) };
        release(socket, self.guarded);
    }
}

/// Has the kernel refuse all descriptors that clients attach, from the next `connect` on (Linux 6.16; before that, nothing
/// comes of it). Whether it does.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> bool {
    peer::set_option(socket, SO_PASSRIGHTS, 0).is_ok()
}

fn refuses_descriptors(socket: BorrowedFd<'_>) -> bool {
    matches!(peer::option_words(socket, SO_PASSRIGHTS), Ok([0]))
}

/// Of Linux 6.16, which the `libc` crate lacks; the same number everywhere but on parisc and sparc.
const SO_PASSRIGHTS: libc::c_int = 83;

/// A connection in a broker's hands.
#[derive(Debug)]
struct Handed {
    connection: Rc<Connection>,
    /// That broker's key.
    broker: u64,
}

/// The listener, and every connection that a broker has.
#[derive(Debug)]
pub(crate) struct Connections {
    listener: Option<OwnedFd>,
    /// It is in the poll loop.
    watched: bool,
    handed: HashMap<u64, Handed>,
    /// Accepted, and not handed over yet.
    next: Option<Rc<Connection>>,
    accepted: u64,
    pace: Bucket,
    paused_until: Option<Instant>,
    /// No broker can be started, and the launcher says so to clients.
    pub(crate) turning_away: bool,
}

impl Connections {
    pub(crate) fn new(listener: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(listener) = &listener {
            // systemd's sockets block, and a client that is gone again would then keep the loop waiting for another.
            rustix::io::ioctl_fionbio(listener, true)?;
            refuse_descriptors(listener.as_fd());
        }
        Ok(Self {
            listener,
            watched: false,
            handed: HashMap::new(),
            next: None,
            accepted: 0,
            pace: Bucket::full(),
            paused_until: None,
            turning_away: false,
        })
    }

    /// How many there are, of all brokers.
    pub(crate) fn number(&self) -> usize {
        self.handed.len() + usize::from(self.next.is_some())
    }

    /// How many a broker has.
    pub(crate) fn of(&self, broker: u64) -> usize {
        let its = |handed: &&Handed| handed.broker == broker;
        self.handed.values().filter(its).count()
    }

    /// The connection that a broker names. `None`: it has none of that number.
    pub(crate) fn named(&self, number: u64, broker: u64) -> Option<Rc<Connection>> {
        let handed = self.handed.get(&number)?;
        (handed.broker == broker).then(|| Rc::clone(&handed.connection))
    }

    /// A broker has closed its copy. Whether it had one.
    pub(crate) fn closed(&mut self, number: u64, broker: u64) -> bool {
        let had = self.named(number, broker).is_some();
        if had {
            self.handed.remove(&number);
        }
        had
    }

    /// A broker has ended. Its clients see the end of their connections, or the answers that they still wait for and then
    /// the end.
    pub(crate) fn ended(&mut self, broker: u64) {
        self.handed.retain(|_, handed| handed.broker != broker);
    }

    /// Lets nobody in until then.
    pub(crate) fn pause(&mut self, until: Instant) {
        self.paused_until = Some(until);
    }

    /// The next client, if there is one. Not one is taken beyond what its agent's pace allows.
    fn accept(&mut self, now: Instant) -> Option<Connection> {
        let listener = self.listener.as_ref()?;
        let ready = self.pace.ready_at(PACE, 0, now);
        if ready > now {
            self.pause(ready);
            return None;
        }
        match accept(listener.as_fd()) {
            Ok(Some(client)) => {
                self.pace.take(PACE);
                // Without credentials there is nobody to answer: the socket is closed.
                Connection::new(client).ok()
            }
            Ok(None) => None,
            Err(_) => {
                self.pause(now + PAUSE);
                None
            }
        }
    }
}

impl Service {
    /// The broker that new connections go to.
    fn server(&self) -> Option<&Child> {
        let serving = |c: &&Child| c.broker.ready.is_some() && !c.draining;
        self.children.iter().filter(serving).max_by_key(|c| c.key)
    }

    /// Clients connect.
    pub(crate) fn clients_connect(&mut self) {
        for _ in 0..TURN {
            if !self.takes_clients() {
                return;
            }
            let Some(client) = self.connections.accept(Instant::now()) else {
                return;
            };
            if self.connections.turning_away {
                self.turn_away(&client);
            } else {
                self.connections.next = Some(Rc::new(client));
                self.hand_over();
            }
        }
        if self.connections.turning_away {
            // A flood may not keep the launcher busy.
            self.connections.pause(Instant::now() + PAUSE);
        }
    }

    /// Watches the listener while somebody would serve who connects, or clients have to be told that nobody does; says when
    /// to look again.
    pub(crate) fn watch_clients(&mut self, now: Instant) -> Option<Instant> {
        self.hand_over();
        let paused = self.connections.paused_until.filter(|until| now < *until);
        self.connections.paused_until = paused;
        let wanted = paused.is_none() && self.takes_clients();
        if wanted != self.connections.watched
            && let Some(listener) = &self.connections.listener
        {
            let done = if wanted {
                self.add(key::CLIENTS, listener.as_fd())
            } else {
                epoll::delete(&self.epoll, listener).map_err(Into::into)
            };
            match done {
                Ok(()) => self.connections.watched = wanted,
                Err(error) => {
                    let agent = self.options.agent.as_str();
                    tracing::error!(agent, %error, "cannot watch the agent's socket; retrying");
                    return Some(now + PAUSE);
                }
            }
        }
        let full = self.connections.next.is_some() && self.server().is_some();
        paused.or(full.then_some(now + LINK_FULL))
    }

    fn takes_clients(&self) -> bool {
        let has_room = |c: &Child| self.connections.of(c.key) < limits::CONNECTIONS_AT_MOST;
        self.stopping.is_none()
            && self.connections.next.is_none()
            && (self.connections.turning_away || self.server().is_some_and(has_room))
    }

    /// Hands the connection over that waits for it, if there is one, and a broker that has room for it.
    fn hand_over(&mut self) {
        let Some(client) = self.connections.next.take() else {
            return;
        };
        let number = self.connections.accepted + 1;
        let Credentials { pid, uid, gid } = client.credentials;
        let accepted = Accepted {
            number,
            pid,
            uid,
            gid,
            guarded: client.guarded,
        };
        let server = self.server();
        let handed = server.filter(|c| c.broker.hand_over(accepted, client.as_fd()));
        match handed.map(|child| child.key) {
            Some(broker) => {
                self.connections.accepted = number;
                let connection = client;
                if !peer::has_peer_pidfd() {
                    // Its number may come to mean another process. With a pidfd the socket itself knows it.
                    let _ = connection.peer();
                }
                self.connections
                    .handed
                    .insert(number, Handed { connection, broker });
            }
            // There will be none.
            None if self.connections.turning_away => self.turn_away(&client),
            // Its link is full, or it has ended, which its pidfd tells. The next one gets it.
            None => self.connections.next = Some(client),
        }
    }
}
