//! The listener, and the broker's life: ready, serving, draining, gone.
//!
//! All connections are of one agent, so a place that one of its processes takes is missing to another of them and to
//! nobody else. When all are taken, a newcomer gets the place of the client that has been silent longest; while every
//! client is busy, the newcomer is told so. Whoever hoards connections thus keeps nobody out, and whoever keeps all of
//! them busy costs its own agent alone.

use crate::connection::Connection;
use crate::denials::{self, Asker};
use crate::judgement::Judge;
use crate::link::{Link, Told};
use crate::service::Service;
use crate::socket;
use portcullis_policy::Peer;
use portcullis_wire::{Directive, Order, Reply, Response, codec};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// When there are so many connections, a newcomer needs the place of a silent one.
pub const CONNECTIONS: usize = 256;

/// So many there are at most, with those that are being ended.
pub const CONNECTIONS_AT_MOST: usize = CONNECTIONS + 32;

/// A client that has sent nothing for so long is left. It notices at once, and connects again when it needs to.
const SILENT: Duration = Duration::from_secs(300);

/// A client that has sent nothing for so long gives up its place when there is none for a newcomer.
const REPLACEABLE: Duration = Duration::from_secs(1);

/// When a newcomer without a place may ask again, in milliseconds.
const FULL: u32 = 1000;

/// How long no connection is accepted after that failed: for want of descriptors or memory, trying at once would spin.
const PAUSE: Duration = Duration::from_millis(100);

/// So many newcomers in a row, then those who are here.
const TURN: usize = 16;

/// Serves until the launcher is gone or has told to drain. Must run in a `LocalSet`.
///
/// # Errors
/// When the listener cannot be watched.
pub async fn serve(listener: Option<OwnedFd>, link: Link, judge: Judge) -> io::Result<()> {
    let listener = listener.map(|listener| socket::watch(listener, Interest::READABLE));
    let listener = listener.transpose()?;
    let ready = judge.ready();
    let service = Rc::new(Service::new(judge, link));
    if service.link.tell(&ready).await.is_err() {
        return Ok(());
    }
    let accepting = listener.map(|listener| spawn_local(accept(listener, Rc::clone(&service))));
    let shared = Rc::clone(&service);
    spawn_local(async move { shared.tell_connections().await });
    let shared = Rc::clone(&service);
    spawn_local(async move { shared.tell_denials().await });
    let shared = Rc::clone(&service);
    spawn_local(async move {
        loop {
            tokio::time::sleep(SILENT / 4).await;
            shared.end_silent(SILENT, false);
        }
    });
    loop {
        match service.link.hear().await {
            Told::Directive(Directive::Drain) => break,
            Told::Directive(Directive::Line {
                number,
                dir,
                command,
                text,
            }) => {
                let judged = service.judge.borrow().line(&dir, &command, &text);
                let order = match judged {
                    Ok(ref datagram) => Order::Line { number, datagram },
                    Err(refusal) => {
                        let denial = denials::of_line(*refusal);
                        Order::LineDenied { number, denial }
                    }
                };
                if service.link.tell(&order).await.is_err() {
                    return Ok(());
                }
            }
            Told::Nonsense => {}
            Told::Gone => return Ok(()),
        }
    }
    if let Some(accepting) = accepting {
        accepting.abort();
        // The task holds the listener: it is closed before the first connection ends.
        let _ = accepting.await;
    }
    service.end_all();
    let gone = async { while service.link.hear().await != Told::Gone {} };
    either(service.empty(), gone).await;
    service.tell_last_denials();
    Ok(())
}

async fn accept(listener: AsyncFd<OwnedFd>, service: Rc<Service>) {
    while let Ok(mut ready) = listener.readable().await {
        let mut newcomers = 0;
        for _ in 0..TURN {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(listener.as_fd(), flags) {
                Ok(client) => {
                    welcome(&service, client);
                    newcomers += 1;
                }
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
        // Whether they got a place or not. Who comes meanwhile waits to be accepted, and is not lost.
        let wait = service.charge(newcomers);
        if newcomers > 0 && !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        tokio::task::yield_now().await;
    }
}

fn welcome(service: &Rc<Service>, client: OwnedFd) {
    if !has_place(service) {
        return turn_away(&client);
    }
    // Without credentials there is nobody to answer: the socket is closed.
    let Some(libc::ucred { pid, uid, gid }) = socket::peer_credentials(client.as_fd()) else {
        return;
    };
    let peer = Peer::Process { uid, gid, pid };
    let refused = service.judge.borrow().admission(&peer);
    // Not for writing: else every reply that a client reads would wake this process.
    let Ok(socket) = socket::watch(client, Interest::READABLE) else {
        return;
    };
    let connection = Rc::new(Connection {
        socket,
        peer,
        asker: Asker { uid, gid, pid },
        refused,
        heard: Cell::new(Instant::now()),
        ending: Cell::new(false),
        ended: Notify::new(),
    });
    let place = service.enter(&connection);
    let service = Rc::clone(service);
    spawn_local(async move {
        connection.serve(&service).await;
        drop(place);
    });
}

fn has_place(service: &Service) -> bool {
    let connected = service.connected();
    connected < CONNECTIONS
        || connected < CONNECTIONS_AT_MOST && service.end_silent(REPLACEABLE, true) > 0
}

fn turn_away(client: &OwnedFd) {
    let busy = Response {
        id: 0,
        reply: Reply::Busy { retry_after: FULL },
    };
    if let Ok(bytes) = codec::encode(&busy) {
        // A client that does not take it sees the end of the connection.
        let _ = socket::answer(client.as_fd(), &bytes);
    }
    socket::discard(client.as_fd());
}

/// Waits for whichever of two comes first.
async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => other.as_mut().poll(cx),
    })
    .await;
}

impl Judge {
    /// What the launcher is told once the broker serves.
    #[must_use]
    pub fn ready(&self) -> Order<'static> {
        let pong = self.pong();
        Order::Ready {
            layers: pong.layers.clone(),
            landlock_abi: pong.landlock_abi,
        }
    }
}
