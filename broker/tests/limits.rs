//! How much an agent can take, and from whom.

use crate::harness::{Broker, Client, POLICY, Setup, sleep, until};
use portcullis_wire::{Body, Directive, Order, Reason, Reply, Request, codec, limits};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PLACES: usize = limits::CONNECTIONS;
/// Enough for one in a hundred to say something.
const PINGS: usize = 500;

/// The limit on memory is beside what the policy takes, however large that is.
#[test]
fn policy_of_many_rules_leaves_room_to_serve() {
    let (head, rule) = POLICY.split_once("[[launch]]").unwrap();
    let mut policy = head.to_owned();
    for number in 0..150 {
        let command = format!("\"sleep-{number}\"");
        let rule = rule.replace("\"sleep\"", &command);
        let rule = rule.replace("test-sleep-", &format!("test-{number}-"));
        policy.push_str(&format!("[[launch]]{rule}"));
    }
    policy.push_str(&"# filler\n".repeat(100_000));
    let broker = Setup::new().policy(&policy).start();
    let mut clients: Vec<Client> = (0..PLACES).map(|_| broker.connect()).collect();
    for client in &mut clients {
        client.ping();
    }
    let mut launch = sleep("5");
    launch.command = "sleep-149".to_owned();
    clients[0].request(Body::Launch(launch));
    broker.forwarded();
}

#[test]
fn more_launches_than_the_policy_allows_are_denied_and_told_the_limit() {
    let broker = Setup::new()
        .policy(&POLICY.replace("1000000/s", "3/hour"))
        .start();
    let mut client = broker.connect();
    for _ in 0..3 {
        assert!(matches!(
            client.ask(Body::Launch(sleep("x"))),
            Reply::Denied {
                reason: Reason::Argument,
                ..
            }
        ));
    }
    match client.ask(Body::Launch(sleep("5"))) {
        Reply::Denied {
            reason: Reason::LimitRate,
            message,
            ..
        } => {
            assert!(message.contains("3 launches in 3600 s"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    // Neither another connection nor a dry run changes that, and a ping costs nothing.
    let mut other = broker.connect();
    assert!(matches!(
        other.ask(Body::Launch(sleep("5"))),
        Reply::Denied {
            reason: Reason::LimitRate,
            ..
        }
    ));
    other.ping();
}

#[test]
fn hoarded_connections_keep_nobody_out() {
    for setup in Setup::hosts() {
        let broker = setup.start();
        let mut hoard: Vec<Client> = (0..PLACES).map(|_| broker.connect()).collect();
        for client in &mut hoard {
            client.ping();
        }
        let mut newcomers = vec![come_in(&broker)];
        // The one that was silent longest gave up its place; it sees the end, and the last of the hoard still has its own.
        assert_eq!(hoard[0].reply(), None);
        hoard[PLACES - 1].ping();
        newcomers.extend((0..20).map(|_| come_in(&broker)));
        assert!(broker.descriptors() < PLACES + 60);
    }
}

/// Comes in as soon as one of those who are there has been silent for long enough.
fn come_in(broker: &Broker) -> Client {
    let ping = codec::encode(&Request {
        id: 1,
        body: Body::Ping,
    })
    .unwrap();
    let mut welcome = None;
    until("a newcomer gets a place", || {
        let newcomer = broker.connect();
        // One without a place may be gone from before it has asked.
        let _ = send(&newcomer.socket, &ping, SendFlags::NOSIGNAL);
        if matches!(newcomer.reply().unwrap().reply, Reply::Pong(_)) {
            welcome = Some(newcomer);
        }
        welcome.is_some()
    });
    welcome.unwrap()
}

#[test]
fn a_newcomer_is_told_when_every_place_is_in_use() {
    let broker = Broker::start();
    let mut busy: Vec<Client> = (0..PLACES).map(|_| broker.connect()).collect();
    // On a machine that is slow enough, one of them has been silent for a second after all, and gives up its place.
    until("a newcomer is told", || {
        for client in &mut busy {
            client.ping();
        }
        let mut newcomer = broker.connect();
        let ping = codec::encode(&Request {
            id: 1,
            body: Body::Ping,
        })
        .unwrap();
        let _ = send(&newcomer.socket, &ping, SendFlags::NOSIGNAL);
        let response = newcomer.reply().unwrap();
        if response.id == 1 {
            std::mem::swap(&mut busy[0], &mut newcomer);
            return false;
        }
        assert!(
            matches!(response.reply, Reply::Busy { retry_after: 1.. }),
            "{response:?}"
        );
        assert_eq!((response.id, newcomer.reply()), (0, None));
        true
    });
    busy[PLACES - 1].ping();
}

#[test]
fn who_does_not_read_is_not_read_and_holds_up_nobody() {
    let broker = Broker::start();
    let deaf = broker.connect();
    let ping = codec::encode(&Request {
        id: 1,
        body: Body::Ping,
    })
    .unwrap();
    let mut sent = 0;
    // Until the broker has stopped reading and the client's own buffer is full too.
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(500) {
        match send(
            &deaf.socket,
            &ping,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(_) => {
                sent += 1;
                last = Instant::now();
            }
            Err(Errno::AGAIN) => std::thread::yield_now(),
            Err(errno) => panic!("{errno}"),
        }
        assert!(sent < 100_000, "the broker reads on");
    }
    let before = broker.resident();
    let mut other = broker.connect();
    for _ in 0..1000 {
        other.ping();
    }
    assert!(broker.resident() < before + 256);
    // It reads late, but it reads: nothing is lost.
    for _ in 0..sent {
        assert!(matches!(deaf.reply().unwrap().reply, Reply::Pong(_)));
    }
}

#[test]
fn who_never_reads_is_left_after_ten_seconds() {
    let broker = Broker::start();
    let deaf = broker.connect();
    let ping = codec::encode(&Request {
        id: 1,
        body: Body::Ping,
    })
    .unwrap();
    let start = Instant::now();
    let ask = || {
        send(
            &deaf.socket,
            &ping,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
    };
    until("the broker closes the connection", || {
        matches!(ask(), Err(Errno::PIPE | Errno::CONNRESET))
    });
    assert!(start.elapsed() > Duration::from_secs(9));
    broker.connect().ping();
}

/// However many datagrams wait on some connections: between a ping on another and its answer come no more than two turns of
/// each of them, be it with short requests or with one that takes long to judge.
#[test]
fn floods_on_some_connections_do_not_hold_up_another() {
    let body = Body::Launch(sleep("x"));
    let denied = codec::encode(&Request { id: 1, body }).unwrap();
    let (slowest, rarely) = (PINGS - 1, PINGS * 99 / 100);
    for (datagram, in_a_turn, at) in [(denied, 32, slowest), (longest(), 2, rarely)] {
        let floods = 4;
        // As much again for what had been answered before the ping, and was counted after it.
        let most = 2 * (2 * floods * in_a_turn);
        let (answered, taken) = answered_before_a_ping(floods, &datagram);
        let answered = &answered[rarely..];
        assert!(answered[0] <= most, "more than {most}: {answered:?}");
        let taken = taken[at];
        assert!(taken < Duration::from_millis(250), "{taken:?}");
    }
}

/// A launch of that many bytes, about as costly to judge as any: many words, the last of which no rule takes.
fn longest() -> Vec<u8> {
    let mut launch = sleep("5");
    launch.args = vec!["5".repeat(60); limits::ARGUMENTS];
    launch.dry_run = true;
    let body = Body::Launch(launch);
    let bytes = codec::encode(&Request { id: 1, body }).unwrap();
    assert!(bytes.len() > limits::DATAGRAM * 9 / 10);
    bytes
}

/// How many others are answered between a ping and its answer, and how long that takes, beside floods of that datagram
/// without pause: of all [`PINGS`], both from the least to the most.
fn answered_before_a_ping(floods: usize, datagram: &[u8]) -> (Vec<usize>, Vec<Duration>) {
    let broker = Broker::start();
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let flooders: Vec<Client> = (0..floods).map(|_| broker.connect()).collect();
    let mut calm = broker.connect();
    let (mut answered, mut taken) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        for client in &flooders {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = send(&client.socket, datagram, SendFlags::NOSIGNAL);
                }
            });
            scope.spawn(|| {
                let mut reply = [0; 2048];
                while matches!(
                    recv(&client.socket, &mut reply[..], RecvFlags::empty()),
                    Ok((1.., _))
                ) {
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until("the floods are answered", || {
            answers.load(Ordering::Relaxed) > 0
        });
        for _ in 0..PINGS {
            let (before, start) = (answers.load(Ordering::Relaxed), Instant::now());
            calm.ping();
            taken.push(start.elapsed());
            answered.push(answers.load(Ordering::Relaxed) - before);
        }
        stop.store(true, Ordering::Relaxed);
        drop(broker);
    });
    answered.sort_unstable();
    taken.sort_unstable();
    (answered, taken)
}

/// Of another version: refused after three bytes of sixty thousand, which count all the same.
pub fn large() -> Vec<u8> {
    vec![b'P'; 60 * 1024]
}

/// How many pieces of work an agent may have made in that time.
pub fn earned(elapsed: Duration) -> usize {
    20_000 + 5_000 * usize::try_from(elapsed.as_millis()).unwrap() / 1000
}

/// However little each of them costs: what an agent makes the broker do in the long run is bounded, so that the
/// processors stay with those who launch.
#[test]
fn a_flood_is_answered_no_faster_than_an_agents_share_of_work_allows() {
    let broker = Broker::start();
    let datagram = large();
    let pieces = 1 + datagram.len() / 2048;
    let (connections, flooded) = (4, Duration::from_secs(2));
    let flooders: Vec<Client> = (0..connections).map(|_| broker.connect()).collect();
    let start = Instant::now();
    let answered: usize = std::thread::scope(|scope| {
        let flood = |client: &Client| {
            let mut reply = [0; 2048];
            let mut answered = 0;
            while start.elapsed() < flooded {
                send(&client.socket, &datagram, SendFlags::NOSIGNAL).unwrap();
                recv(&client.socket, &mut reply[..], RecvFlags::empty()).unwrap();
                answered += 1;
            }
            answered
        };
        let threads: Vec<_> = flooders
            .iter()
            .map(|c| scope.spawn(move || flood(c)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    let paid = earned(start.elapsed());
    // Each is answered before it is paid for.
    let most = paid / pieces + connections;
    assert!(answered <= most, "{answered} of at most {most}");
    assert!(
        answered > 20_000 / pieces,
        "{answered}: what comes at once is not slowed down"
    );
}

/// Nor does it help to come anew for each: a connection counts as well, and one that finds no place no less.
#[test]
fn a_flood_of_connections_is_answered_no_faster_than_an_agents_share_of_work_allows() {
    let broker = Broker::start();
    let datagram = large();
    let pieces = 1 + 1 + datagram.len() / 2048;
    let (flooders, flooded) = (4, Duration::from_secs(2));
    let start = Instant::now();
    let flood = || {
        let mut answered = 0;
        while start.elapsed() < flooded {
            let client = broker.connect();
            // One that is turned away may be gone from already.
            let _ = send(&client.socket, &datagram, SendFlags::NOSIGNAL);
            answered += usize::from(client.reply().is_some());
        }
        answered
    };
    let answered: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..flooders).map(|_| scope.spawn(flood)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    // Some are accepted and answered before that is paid for.
    let most = earned(start.elapsed()) / pieces + 4 * flooders;
    assert!(answered <= most, "{answered} of at most {most}");
    assert!(
        answered > 20_000 / pieces,
        "{answered}: what comes at once is not slowed down"
    );
}

/// First come, first served: nobody who waits is passed over.
#[test]
fn those_who_wait_for_their_share_of_work_get_the_same() {
    let broker = Broker::start();
    let datagram = large();
    let flooders: Vec<Client> = (0..24).map(|_| broker.connect()).collect();
    for client in &flooders {
        // Some are always there when the broker looks.
        for _ in 0..3 {
            client.send(&datagram);
        }
    }
    // What comes at once, and a little that is waited for: from then on all wait.
    answers(&flooders, &datagram, 20_000 / (datagram.len() / 2048) + 100);
    let answered = answers(&flooders, &datagram, 10 * flooders.len());
    let (least, most) = (answered.iter().min(), answered.iter().max());
    assert!(most.unwrap() - least.unwrap() <= 3, "{answered:?}");
}

/// Sends one more for each answer, until so many have come, and says how many to whom.
fn answers(clients: &[Client], datagram: &[u8], wanted: usize) -> Vec<usize> {
    let mut answered = vec![0; clients.len()];
    until("so many answers come", || {
        for (client, answered) in clients.iter().zip(&mut answered) {
            if recv(&client.socket, &mut [0; 2048], RecvFlags::DONTWAIT).is_ok() {
                client.send(datagram);
                *answered += 1;
            }
        }
        answered.iter().sum::<usize>() >= wanted
    });
    answered
}

#[test]
fn a_launcher_that_does_not_read_makes_clients_wait_and_loses_nothing() {
    let broker = Broker::start();
    let mut client = broker.connect();
    let mut forwarded = 0;
    let busy = loop {
        let id = client.request(Body::Launch(sleep("5")));
        client.request(Body::Ping);
        let first = client.reply().unwrap();
        if first.id == id {
            break first.reply;
        }
        forwarded += 1;
        assert!(forwarded < 100_000);
    };
    assert!(matches!(busy, Reply::Busy { retry_after: 1.. }), "{busy:?}");
    assert!(matches!(client.reply().unwrap().reply, Reply::Pong(_)));
    for _ in 0..forwarded {
        broker.forwarded();
    }
    client.request(Body::Launch(sleep("6")));
    let (datagram, _) = broker.forwarded();
    assert_eq!(
        codec::decode_request(&datagram).unwrap().body,
        Body::Launch(sleep("6"))
    );
}

/// Until then a connection's number is taken, and the launcher's copy keeps it open.
#[test]
fn closed_connection_is_reported_by_its_number() {
    let broker = Broker::start();
    let (mut first, _kept) = broker.connect_kept();
    let (mut second, _) = broker.connect_kept();
    first.ping();
    second.ping();
    drop(second);
    assert_eq!(closed(&broker), [2]);
    drop(first);
    assert_eq!(closed(&broker), [1]);
}

fn closed(broker: &Broker) -> Vec<u64> {
    match broker.heard().order() {
        Order::Closed(numbers) => numbers,
        other => panic!("{other:?}"),
    }
}

#[test]
fn full_link_is_counted_and_reported() {
    let broker = Broker::start();
    let mut client = broker.connect();
    let mut full = 0;
    while full < 5 {
        let id = client.request(Body::Launch(sleep("5")));
        client.request(Body::Ping);
        if client.reply().unwrap().id == id {
            client.reply().unwrap();
            full += 1;
        }
    }
    let mut reported = 0;
    while reported < full {
        if let Order::LinkFull(count) = broker.heard().order() {
            reported += count;
        }
    }
    assert_eq!(reported, full);
}

#[test]
fn heartbeat_is_answered_with_its_number() {
    let broker = Broker::start();
    for number in [1, u64::MAX] {
        broker.tell(Directive::Heartbeat(number));
        assert_eq!(broker.heard().order(), Order::Heartbeat(number));
    }
}

/// Places are for those whom the policy admits.
#[test]
fn refused_connections_give_way_to_admitted_ones() {
    for setup in Setup::hosts() {
        let broker = setup
            .policy(&POLICY.replace("uid = 0", "uid = [0]\ngid = [0]"))
            .start();
        let refused: Vec<Client> = (0..PLACES - 1).map(|_| broker.connect_as(4711).0).collect();
        let mut admitted = broker.connect();
        admitted.ping();
        let mut newcomer = come_in(&broker);
        admitted.ping();
        newcomer.ping();
        // One of the refused was ended, and a refused newcomer takes no admitted one's place.
        let ended = |client: &Client| {
            let end = recv(&client.socket, &mut [0; 16], RecvFlags::DONTWAIT);
            matches!(end, Ok((0, _)))
        };
        assert_eq!(refused.iter().filter(|client| ended(client)).count(), 1);
    }
}

/// However long the admitted ones have been silent.
#[test]
fn refused_newcomer_takes_no_admitted_place() {
    for setup in Setup::hosts() {
        let broker = setup.start();
        let mut admitted: Vec<Client> = (0..PLACES).map(|_| broker.connect()).collect();
        for client in &mut admitted {
            client.ping();
        }
        let first = Instant::now();
        until("they have been silent for long enough", || {
            first.elapsed() > Duration::from_millis(1100)
        });
        let (stranger, _) = broker.connect_as(4711);
        let response = stranger.reply().unwrap();
        assert!(matches!(response.reply, Reply::Busy { .. }), "{response:?}");
        for client in &mut admitted {
            client.ping();
        }
    }
}

/// However new they are: whoever floods with refused ones has each of them new.
#[test]
fn new_refused_connections_keep_nobody_out() {
    for setup in Setup::hosts() {
        let broker = setup.start();
        let refused: Vec<Client> = (0..PLACES).map(|_| broker.connect_as(4711).0).collect();
        for _ in 0..8 {
            let mut newcomer = broker.connect();
            newcomer.ping();
        }
        drop(refused);
    }
}
