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
    opened: Cell<u64>,
    work: RefCell<Bucket>,
    denials: RefCell<Denials>,
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
            opened: Cell::new(0),
            work: RefCell::new(Bucket::new(WORK, Instant::now())),
            denials: RefCell::default(),
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
        let number = self.opened.replace(self.opened.get() + 1);
        self.connections
            .borrow_mut()
            .insert(number, Rc::clone(connection));
        self.changed.notify_one();
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

    /// Ends those connections whose client has been silent for so long, or the one of those that has been silent longest.
    /// What they have sent is still read. Returns how many.
    pub fn end_silent(&self, silent: Duration, only_one: bool) -> usize {
        let now = Instant::now();
        let connections = self.connections.borrow();
        let mut chosen: Vec<_> = connections
            .values()
            .filter(|c| !c.ending.get() && now.saturating_duration_since(c.heard.get()) >= silent)
            .collect();
        if only_one {
            chosen.sort_by_key(|connection| connection.heard.get());
            chosen.truncate(1);
        }
        for connection in &chosen {
            connection.end();
        }
        chosen.len()
    }

    /// Ends all connections. What they have sent is still read and handled.
    pub fn end_all(&self) {
        for connection in self.connections.borrow().values() {
            connection.end();
        }
    }

    /// Waits until there is no connection.
    pub async fn empty(&self) {
        while self.connected() > 0 {
            self.emptied.notified().await;
        }
    }

    /// Hands a request with its client's socket to the launcher, if that is possible now.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn forward(
        &self,
        datagram: &[u8],
        received: u64,
        client: &Connection,
    ) -> Result<(), LinkError> {
        self.link.send(
            &Order::Forward { received, datagram },
            Some(client.socket.as_fd()),
        )
    }

    /// Counts a denial.
    pub fn refused(&self, refusal: Refusal, asker: Asker) {
        self.denials.borrow_mut().add(refusal, asker);
        self.denied.notify_one();
    }

    /// Tells the launcher whenever there are connections, and whenever there are none. Ends with the launcher.
    pub async fn tell_connections(&self) {
        let mut told = 0;
        loop {
            let now = self.connected();
            if (now > 0) != (told > 0) {
                let count = u32::try_from(now).unwrap_or(u32::MAX);
                if self.link.tell(&Order::Connections(count)).await.is_err() {
                    return;
                }
                told = now;
            } else {
                self.changed.notified().await;
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
            let _ = self.link.send(&Order::Denied(counts), None);
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
        self.service.changed.notify_one();
        if self.service.connected() == 0 {
            self.service.emptied.notify_one();
        }
    }
}

impl Connection {
    /// Lets nothing more in. The task that serves it reads what has arrived, handles it without a pause, and ends.
    pub fn end(&self) {
        self.ending.set(true);
        self.ended.notify_one();
        socket::stop_reading(self.socket.as_fd());
    }
}
