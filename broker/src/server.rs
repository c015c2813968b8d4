//! The broker's life: ready, serving, draining, gone; and who of those who connect gets a place.
//!
//! The launcher accepts, and hands each connection over; the listener is never here. All connections are of one agent, so a
//! place that one of its processes takes is missing to another of them and to nobody else. When all are taken, a newcomer
//! gets the place of one that the policy refuses, or of the client that has been silent longest; while every client is
//! busy, the newcomer is told so. A client that hoards connections keeps nobody out, and one that keeps all of them busy
//! costs its own agent alone.

use crate::connection::Connection;
use crate::denials::{self, Asker};
use crate::judgement::Judge;
use crate::link::{Link, Told};
use crate::service::Service;
use crate::socket;
use portcullis_policy::Peer;
use portcullis_wire::{Accepted, Directive, Order, Reply, Response, codec, limits};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// A client that has sent nothing for so long is left. It notices at once, and connects again when it needs to.
const SILENT: Duration = Duration::from_secs(300);

/// A client that has sent nothing for so long gives up its place when there is none for a newcomer.
const REPLACEABLE: Duration = Duration::from_secs(1);

/// When a newcomer without a place may ask again, in milliseconds.
const FULL: u32 = 1000;

/// Serves until the launcher is gone or has told to drain. Must run in a `LocalSet`.
pub async fn serve(link: Link, judge: Judge) {
    let ready = judge.ready();
    let service = Rc::new(Service::new(judge, link));
    if service.link.tell(&ready).await.is_err() {
        return;
    }
    let shared = Rc::clone(&service);
    spawn_local(async move { shared.tell_changes().await });
    let shared = Rc::clone(&service);
    spawn_local(async move { shared.tell_denials().await });
    let shared = Rc::clone(&service);
    spawn_local(async move {
        loop {
            tokio::time::sleep(SILENT / 4).await;
            shared.end_silent(SILENT);
        }
    });
    if !follow(&service).await {
        return;
    }
    service.end_all();
    let gone = async { while !matches!(service.link.hear().await, Told::Gone) {} };
    either(service.empty(), gone).await;
    service.tell_last_denials();
}

/// Does what the launcher says. Whether it said to drain; else it is gone.
async fn follow(service: &Rc<Service>) -> bool {
    loop {
        let answer = match service.link.hear().await {
            Told::Directive(Directive::Drain, _) => return true,
            Told::Directive(Directive::Connection(accepted), Some(socket)) => {
                welcome(service, accepted, socket);
                // It has most likely asked already: it goes first.
                tokio::task::yield_now().await;
                continue;
            }
            Told::Directive(Directive::Connection(accepted), None) => {
                // There was no room for its descriptor.
                service.closed(accepted.number);
                continue;
            }
            Told::Directive(Directive::Heartbeat(number), _) => {
                service.link.tell(&Order::Heartbeat(number)).await
            }
            Told::Directive(
                Directive::Line {
                    number,
                    dir,
                    command,
                    text,
                },
                _,
            ) => {
                let judged = service.judge.borrow().line(&dir, &command, &text);
                let order = match judged {
                    Ok(ref datagram) => Order::Line { number, datagram },
                    Err(refusal) => {
                        let denial = denials::of_line(*refusal);
                        Order::LineDenied { number, denial }
                    }
                };
                service.link.tell(&order).await
            }
            Told::Nonsense => continue,
            Told::Gone => return false,
        };
        if answer.is_err() {
            return false;
        }
    }
}

fn welcome(service: &Rc<Service>, accepted: Accepted, socket: OwnedFd) {
    let Accepted {
        number,
        pid,
        uid,
        gid,
        guarded,
    } = accepted;
    let peer = Peer::Process { uid, gid, pid };
    let refused = service.judge.borrow().admission(&peer);
    // Whether it gets a place or not. It is served once that is paid for, and who comes meanwhile is not lost.
    let wait = service.charge(1);
    if !has_place(service, refused.is_some()) {
        turn_away(&socket, guarded, refused.is_some());
        drop(socket);
        return service.closed(number);
    }
    // Not for writing: else every reply that a client reads would wake this process.
    let Ok(socket) = socket::watch(socket, Interest::READABLE) else {
        return service.closed(number);
    };
    let connection = Rc::new(Connection {
        number,
        socket,
        guarded,
        peer,
        asker: Asker { uid, gid, pid },
        refused,
        received: Cell::new((0, 0)),
        heard: Cell::new(Instant::now()),
        ending: Cell::new(false),
        ended: Notify::new(),
    });
    let place = service.enter(&connection);
    let service = Rc::clone(service);
    spawn_local(async move {
        connection.pause(wait).await;
        connection.serve(&service).await;
        drop(place);
        // The last owner: the copy is closed by now, and the launcher's own is the only one.
        drop(connection);
        service.closed(number);
    });
}

fn has_place(service: &Service, refused: bool) -> bool {
    let connected = service.connected();
    connected < limits::CONNECTIONS
        || connected < limits::CONNECTIONS_AT_MOST && service.make_room(REPLACEABLE, refused)
}

fn turn_away(client: &OwnedFd, guarded: bool, refused: bool) {
    let busy = Response {
        id: 0,
        reply: Reply::Busy { retry_after: FULL },
    };
    if let Ok(bytes) = codec::encode(&busy) {
        // A client that does not take it sees the end of the connection.
        let _ = socket::answer(client.as_fd(), &bytes);
    }
    // Of one that is refused nothing is read where that could block.
    if guarded || !refused {
        socket::discard(client.as_fd(), guarded);
    }
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
