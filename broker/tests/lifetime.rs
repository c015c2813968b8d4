//! How a broker ends, and how it lives for long.

use crate::harness::{Broker, Client, Setup, sleep, until};
use crate::limits::{earned, large};
use portcullis_wire::{Body, Directive, Order, Reason, Reply, Request, codec};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn draining_loses_no_request_that_was_sent() {
    for _ in 0..5 {
        let mut broker = Broker::start();
        let clients: Vec<Client> = (0..8).map(|_| broker.connect()).collect();
        let sent = AtomicU64::new(0);
        let (mut forwarded, mut answered) = (0, 0);
        std::thread::scope(|scope| {
            for client in &clients {
                let sent = &sent;
                scope.spawn(move || {
                    // As fast as it can, until the broker lets nothing more in.
                    for id in 1.. {
                        let body = Body::Launch(sleep("5"));
                        let bytes = codec::encode(&Request { id, body }).unwrap();
                        match send(&client.socket, &bytes, SendFlags::NOSIGNAL) {
                            Ok(_) => sent.fetch_add(1, Ordering::Relaxed),
                            Err(Errno::PIPE | Errno::CONNRESET) => return,
                            Err(errno) => panic!("{errno}"),
                        };
                    }
                });
            }
            // What the link has no room for is refused, and the refusals are read.
            let readers: Vec<_> = clients
                .iter()
                .map(|client| {
                    scope.spawn(move || {
                        let mut replies = 0;
                        while let Some(response) = client.reply() {
                            assert!(matches!(response.reply, Reply::Busy { .. }), "{response:?}");
                            replies += 1;
                        }
                        replies
                    })
                })
                .collect();
            let mut told = false;
            loop {
                let heard = broker.heard();
                if heard.bytes.is_empty() {
                    break;
                }
                if let Order::Forward { .. } = heard.order() {
                    forwarded += 1;
                }
                if forwarded == 500 && !told {
                    broker.tell(Directive::Drain);
                    told = true;
                }
            }
            answered += readers
                .into_iter()
                .map(|reader| reader.join().unwrap())
                .sum::<u64>();
        });
        assert!(broker.ended().success(), "{}", broker.log());
        assert_eq!(forwarded + answered, sent.load(Ordering::Relaxed));
    }
}

/// Neither those who wait for what they had handled wait on, nor those whose datagrams are still to be handled.
#[test]
fn draining_under_a_flood_does_not_wait_for_the_agents_share_of_work() {
    let mut broker = Broker::start();
    let datagram = large();
    let pieces = 1 + datagram.len() / 2048;
    let start = Instant::now();
    let mut clients: Vec<Client> = (0..240).map(|_| broker.connect()).collect();
    // Each is accepted: what waits for that is the next broker's.
    for client in &mut clients {
        client.ping();
    }
    for _ in 0..20_000 / pieces {
        clients[0].send(&datagram);
        clients[0].reply().unwrap();
    }
    let mut sent = 0;
    for client in &clients {
        while send(&client.socket, &datagram, SendFlags::DONTWAIT).is_ok() {
            sent += 1;
        }
    }
    // The time that what was sent is worth, and the time that those who wait at any moment have to wait for.
    let owed = (20_000 + sent * pieces).saturating_sub(earned(start.elapsed()));
    let (all, waiting) = (time(owed), time(clients.len() * pieces));
    assert!(all > waiting, "{all:?} {waiting:?}");
    let told = Instant::now();
    broker.tell(Directive::Drain);
    assert!(broker.ended().success(), "{}", broker.log());
    let taken = told.elapsed();
    assert!(taken < waiting / 2, "{taken:?} of {waiting:?} of {all:?}");
    let replies = |client: &Client| std::iter::from_fn(|| client.reply()).count();
    assert_eq!(clients.iter().map(replies).sum::<usize>(), sent);
}

/// How long so many pieces of work take in the long run.
fn time(pieces: usize) -> Duration {
    Duration::from_secs(1) * u32::try_from(pieces).unwrap() / 5_000
}

#[test]
fn draining_without_connections_ends_at_once_and_accepts_no_more() {
    let mut broker = Broker::start();
    broker.connect().ping();
    broker.tell(Directive::Drain);
    assert!(broker.ended().success(), "{}", broker.log());
    assert_eq!(broker.log(), "");
}

#[test]
fn a_client_can_still_be_answered_by_the_launcher_after_the_drain() {
    let mut broker = Broker::start();
    let (mut client, socket) = broker.connect_kept();
    let id = client.request(Body::Launch(sleep("5")));
    broker.forwarded();
    broker.tell(Directive::Drain);
    assert!(broker.ended().success());
    let ping = codec::encode(&Request {
        id: 1,
        body: Body::Ping,
    })
    .unwrap();
    assert_eq!(
        send(&client.socket, &ping, SendFlags::NOSIGNAL),
        Err(Errno::PIPE)
    );
    let answer = portcullis_wire::Response {
        id,
        reply: Reply::NotFound,
    };
    send(
        &socket,
        &codec::encode(&answer).unwrap(),
        SendFlags::empty(),
    )
    .unwrap();
    assert_eq!(client.reply(), Some(answer));
}

#[test]
fn denials_are_told_before_a_drained_broker_ends() {
    let mut broker = Broker::start();
    let mut client = broker.connect();
    for _ in 0..10 {
        client.ask(Body::Launch(sleep("x")));
    }
    broker.tell(Directive::Drain);
    assert!(broker.ended().success());
    let mut told = 0;
    loop {
        let heard = broker.heard();
        if heard.bytes.is_empty() {
            break;
        }
        if let Order::Denied(counts) = heard.order() {
            told += counts.iter().map(|c| c.count).sum::<u32>();
            assert_eq!(counts[0].reason, Reason::Argument);
        }
    }
    assert_eq!(told, 10);
}

#[test]
fn the_end_of_the_launcher_ends_it_at_once() {
    let mut broker = Broker::start();
    let mut client = broker.connect();
    client.ping();
    shutdown(&broker.link, Shutdown::Both).unwrap();
    broker.ended();
    assert_eq!(client.reply(), None);
}

#[test]
fn the_end_of_the_launcher_ends_one_that_drains_too() {
    let mut broker = Broker::start();
    let deaf = broker.connect();
    let ping = codec::encode(&Request {
        id: 1,
        body: Body::Ping,
    })
    .unwrap();
    let ask = || send(&deaf.socket, &ping, SendFlags::DONTWAIT).is_ok();
    // Asleep while there is more to read than fits: it waits for this client to read.
    until("the broker waits for the client", || {
        while ask() {}
        broker.status("State").starts_with('S') && !ask()
    });
    broker.tell(Directive::Drain);
    shutdown(&broker.link, Shutdown::Both).unwrap();
    let start = Instant::now();
    broker.ended();
    // A client that does not read is waited for ten seconds.
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn it_dies_with_its_parent_even_while_the_link_is_open() {
    let mut broker = Setup::new().below_a_shell().start();
    let mut client = broker.connect();
    client.ping();
    assert_ne!(broker.pid(), i32::try_from(broker.child().id()).unwrap());
    broker.child().kill().unwrap();
    broker.child().wait().unwrap();
    assert_eq!(client.reply(), None);
    let directory = format!("/proc/{}", broker.pid());
    until("it is gone", || !std::path::Path::new(&directory).exists());
}

#[test]
fn nonsense_on_the_link_changes_nothing() {
    let broker = Broker::start();
    for bytes in [&b"nonsense"[..], b"PC\x01\x07", &[0; 4096]] {
        send(&broker.link, bytes, SendFlags::empty()).unwrap();
    }
    broker.connect().ping();
}

#[test]
fn ten_thousand_requests_leave_memory_and_descriptors_as_they_were() {
    let broker = Broker::start();
    let mut client = broker.connect();
    let mut round = |count: usize| {
        for _ in 0..count {
            client.ping();
            client.ask(Body::Launch(sleep("x")));
            client.request(Body::Launch(sleep("5")));
            broker.forwarded();
        }
        for _ in 0..count / 10 {
            broker.connect().ping();
        }
    };
    round(500);
    let before = (broker.resident(), broker.descriptors());
    round(3400);
    let after = (broker.resident(), broker.descriptors());
    // The allocator takes 132 kB at a time, and may do so once; a leak of six bytes per request would be more.
    assert!(after.0 <= before.0 + 192, "{before:?} {after:?}");
    until("the connections are closed", || {
        broker.descriptors() <= before.1
    });
    println!(
        "resident: {} kB of its own, {} in all",
        after.0,
        broker.status("VmRSS")
    );
}
