//! What all connections share: the judge, the link, the buffer, the list of connections, and what is still to be told.
//!
//! One thread uses it, and nothing of it is borrowed while anything waits.

use crate::bucket::Bucket;
use crate::connection::Connection;
use crate::denials::{Asker, Denials, Refusal};
use crate::judgement::Judge;
use crate::link::{Link, LinkError};
use crate::socket;
use portcullis_policy::Rate;
use portcullis_wire::{Order, limits};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Between two orders that tell of denials.
const COALESCE: Duration = Duration::from_secs(1);

/// How much work an agent may make in the long run, and at once: a twentieth to a tenth of a processor, and far more than
/// an agent that restarts with thousands of networks. What is over it waits, so a flood costs its own agent time and nobody
/// else's launches their processor.
const WORK: Rate = Rate {
    count: 20_000,
    per: Duration::from_secs(4),
};

/// What all connections share.
#[derive(Debug)]
pub struct Service {
    /// Judges.
    pub judge: RefCell<Judge>,
    /// To the launcher.
    pub link: Link,
    /// Where every datagram is read to: as long as the longest, and one byte, so that a longer one is seen to be.
    pub buffer: RefCell<Vec<u8>>,
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    work: RefCell<Bucket>,
    denials: RefCell<Denials>,
    closed: RefCell<Vec<u64>>,
    overflowed: Cell<u32>,
    denied: Notify,
    changed: Notify,
    emptied: Notify,
}

impl Service {
    /// With no connection yet.
    #[must_use]
    pub fn new(judge: Judge, link: Link) -> Self {
        Self {
            judge: RefCell::new(judge),
            link,
            buffer: RefCell::new(vec![0; limits::DATAGRAM + 1]),
            connections: RefCell::default(),
            work: RefCell::new(Bucket::new(WORK, Instant::now())),
            denials: RefCell::default(),
            closed: RefCell::default(),
            overflowed: Cell::new(0),
            denied: Notify::new(),
            changed: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// How many connections are open.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Counts a connection in. It counts until what is returned is dropped.
    #[must_use]
    pub fn enter(self: &Rc<Self>, connection: &Rc<Connection>) -> Place {
        let number = connection.number;
        self.connections
            .borrow_mut()
            .insert(number, Rc::clone(connection));
        Place {
            service: Rc::clone(self),
            number,
        }
    }

    /// Charges so many pieces of work, which have been done, and says how long whoever made them has to wait for that: first
    /// come, first served.
    #[must_use]
    pub fn charge(&self, pieces: usize) -> Duration {
        let tokens = u32::try_from(pieces).unwrap_or(u32::MAX);
        self.work.borrow_mut().reserve(tokens, Instant::now())
    }

    /// Ends those connections whose client has been silent for so long. What they have sent is still read.
    pub fn end_silent(&self, silent: Duration) {
        let now = Instant::now();
        for connection in self.connections.borrow().values() {
            if !connection.ending.get() && connection.silent(now) >= silent {
                connection.end();
            }
        }
    }

    /// Ends a connection so that a newcomer finds a place, if there is one to be ended: one that is refused, however new,
    /// else the one whose client has been silent longest, if that is for as long as said. A newcomer that is refused itself
    /// gets the place of a refused one alone, and of one that has been silent for so long.
    pub fn make_room(&self, silent: Duration, for_refused: bool) -> bool {
        let now = Instant::now();
        let connections = self.connections.borrow();
        let replaceable = connections.values().filter(|c| {
            !c.ending.get()
                && match (c.refused.is_some(), for_refused) {
                    (true, false) => true,
                    (false, true) => false,
                    _ => c.silent(now) >= silent,
                }
        });
        // The refused ones first, then by how long they were silent.
        let chosen = replaceable.min_by_key(|c| (c.refused.is_none(), c.heard.get()));
        if let Some(connection) = chosen {
            connection.end();
        }
        chosen.is_some()
    }

    /// Ends all connections. What they have sent is still read and handled.
    pub fn end_all(&self) {
        for connection in self.connections.borrow().values() {
            connection.end();
        }
    }

    /// The copy of that connection is closed: the launcher can let go of its own.
    pub fn closed(&self, number: u64) {
        self.closed.borrow_mut().push(number);
        self.changed.notify_one();
    }

    /// Waits until there is no connection.
    pub async fn empty(&self) {
        while self.connected() > 0 {
            self.emptied.notified().await;
        }
    }

    /// Hands a request to the launcher, if that is possible now.
    ///
    /// # Errors
    /// [`LinkError`]. A request for which there was no room is counted and reported to the launcher.
    pub fn forward(
        &self,
        datagram: &[u8],
        received: u64,
        connection: u64,
    ) -> Result<(), LinkError> {
        let sent = self.link.send(&Order::Forward {
            connection,
            received,
            datagram,
        });
        if sent == Err(LinkError::Full) {
            self.overflowed.set(self.overflowed.get().saturating_add(1));
            self.changed.notify_one();
        }
        sent
    }

    /// Counts a denial.
    pub fn refused(&self, refusal: Refusal, asker: Asker) {
        self.denials.borrow_mut().add(refusal, asker);
        self.denied.notify_one();
    }

    /// Tells the launcher which connections were closed, and that the link was full. Ends with the launcher.
    pub async fn tell_changes(&self) {
        loop {
            self.changed.notified().await;
            let closed = self.closed.take();
            if !closed.is_empty() && self.link.tell(&Order::Closed(closed)).await.is_err() {
                return;
            }
            let full = self.overflowed.take();
            if full > 0 && self.link.tell(&Order::LinkFull(full)).await.is_err() {
                return;
            }
        }
    }

    /// Tells the launcher of denials, at most once a second. Ends with the launcher.
    pub async fn tell_denials(&self) {
        loop {
            self.denied.notified().await;
            let counts = self.denials.borrow_mut().take();
            if counts.is_empty() {
                continue;
            }
            if self.link.tell(&Order::Denied(counts)).await.is_err() {
                return;
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    /// Tells the launcher of the denials that are left, if that is possible now.
    pub fn tell_last_denials(&self) {
        let counts = self.denials.borrow_mut().take();
        if !counts.is_empty() {
            // A launcher that is busy or gone will not have them: they were answered, and this process ends.
            let _ = self.link.send(&Order::Denied(counts));
        }
    }
}

/// A connection's place in the list.
#[derive(Debug)]
pub struct Place {
    service: Rc<Service>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.service.connections.borrow_mut().remove(&self.number);
        if self.service.connected() == 0 {
            self.service.emptied.notify_one();
        }
    }
}

impl Connection {
    fn silent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard.get())
    }

    /// Lets nothing more in. The task that serves it reads what has arrived, handles it without a pause, and ends.
    pub fn end(&self) {
        self.ending.set(true);
        self.ended.notify_one();
        socket::stop_reading(self.socket.as_fd());
    }
}
