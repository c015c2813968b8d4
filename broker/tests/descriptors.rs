//! Descriptors that were not asked for, coming in; and those that the broker starts with.

use crate::harness::{Broker, Lingering, Setup, sealed, seqpacket};
use portcullis_wire::{Body, Order, PolicyBundle, PolicyText, Reply, Request, codec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, listen, recv, sendmsg, socketpair,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

fn ping(id: u64) -> Vec<u8> {
    let body = Body::Ping;
    codec::encode(&Request { id, body }).unwrap()
}

/// From Linux 6.16 on nothing that a client attaches gets anywhere.
#[test]
fn invariant_10_descriptors_are_refused_by_the_kernel() {
    let broker = Broker::start();
    if !broker.guarded() {
        println!("this kernel has no SO_PASSRIGHTS");
        return;
    }
    let mut client = broker.connect();
    let file = std::fs::File::open("/dev/null").unwrap();
    for count in [1, 2, 253] {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = vec![file.as_fd(); count];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let bytes = ping(7);
        let bytes = [IoSlice::new(&bytes)];
        let sent = sendmsg(&client.socket, &bytes, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Err(Errno::PERM));
    }
    client.ping();
}

/// Before that they are dropped, and the request is served: none gets a number in the broker.
#[test]
fn invariant_10_descriptors_are_dropped_without_passrights() {
    let broker = Setup::new().unguarded().start();
    let mut client = broker.connect();
    client.ping();
    let before = broker.descriptors();
    let file = std::fs::File::open("/dev/null").unwrap();
    for count in [1, 2, 253] {
        for id in 1..100 {
            client.send_with(&ping(id), &vec![file.as_fd(); count]);
            let response = client.reply().expect("the connection was closed");
            assert_eq!(response.id, id);
            assert!(matches!(response.reply, Reply::Pong(_)), "{response:?}");
        }
        assert_eq!(broker.descriptors(), before);
    }
    client.ping();
}

#[test]
fn sockets_own_connection_is_not_kept_alive() {
    // A socket that travels through itself outlives its owners unless the receiver drops it.
    let broker = Setup::new().unguarded().start();
    let mut client = broker.connect();
    client.ping();
    let before = broker.descriptors();
    client.send_with(b"x", &[client.socket.as_fd()]);
    client.reply().unwrap();
    drop(client);
    crate::harness::until("the connection is closed", || broker.descriptors() < before);
}

/// A datagram whose descriptor blocks the process that drops it: a TCP socket that lingers for a minute, with data that nobody reads.
#[test]
fn lingering_socket_holds_up_nobody() {
    let broker = Setup::new().unguarded().start();
    let mut other = broker.connect();
    other.ping();
    for (uid, number) in [(0, 2), (4711, 3)] {
        let (client, kept) = broker.connect_as(uid);
        // So that the broker drops them last.
        broker.pause();
        let ends = [7, 8, 9, 10, 11, 12].map(|id| {
            let lingering = Lingering::new();
            client.send_with(&ping(id), &[lingering.socket.as_fd()]);
            lingering.end
        });
        broker.resume();
        other.ping();
        let answered = if uid == 0 { 7..=10 } else { 7..=7 };
        for id in answered {
            assert_eq!(client.reply().unwrap().id, id);
        }
        // Such a client is left, and its unread datagrams are the launcher's to drop.
        closed(&broker, number);
        other.ping();
        drop(ends);
        drop(kept);
        let second = recv(&client.socket, &mut [0; 64], RecvFlags::empty());
        assert!(
            matches!(second, Ok((0, _)) | Err(Errno::CONNRESET)),
            "{second:?}"
        );
    }
}

/// Waits until the broker has closed its copy.
fn closed(broker: &Broker, number: u64) {
    loop {
        if let Order::Closed(numbers) = broker.heard().order()
            && numbers.contains(&number)
        {
            return;
        }
    }
}

/// Also where there are many, on connections of their own or in one after the other.
#[test]
fn many_lingering_sockets_hold_up_nobody() {
    let broker = Setup::new().unguarded().start();
    let mut other = broker.connect();
    other.ping();
    let mut kept = vec![];
    for _ in 0..4 {
        let (client, copy) = broker.connect_as(4711);
        broker.pause();
        for _ in 0..4 {
            let lingering = Lingering::new();
            client.send_with(&ping(7), &[lingering.socket.as_fd()]);
            kept.push(lingering.end);
        }
        broker.resume();
        other.ping();
        kept.extend([client.socket, copy]);
    }
    // What lingers ends with the other end, which is dropped first.
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

fn bundle(agent: &str) -> Vec<u8> {
    let text = PolicyText {
        path: "p".to_owned(),
        text: "version = 1".to_owned(),
    };
    codec::encode_unbounded(&PolicyBundle {
        agent: agent.to_owned(),
        files: vec![text],
    })
    .unwrap()
}

#[test]
fn a_descriptor_too_many_is_closed_at_the_start() {
    let broker = Setup::new().surplus().start();
    let mut open = vec![];
    for entry in std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap() {
        open.push(
            std::fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string(),
        );
    }
    open.sort();
    let kinds: Vec<_> = open
        .iter()
        .map(|to| to.split(&['[', '(']).next().unwrap().trim())
        .collect();
    let log = kinds
        .iter()
        .position(|kind| kind.starts_with("pipe:"))
        .unwrap();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| kind.starts_with("pipe:"))
            .count(),
        1,
        "{open:?}"
    );
    // The log, 0 and 1, the event loop's own three, the link.
    let mut rest = kinds.clone();
    rest.remove(log);
    assert_eq!(
        rest.iter().filter(|kind| **kind == "/dev/null").count(),
        2,
        "{open:?}"
    );
    assert_eq!(
        rest.iter()
            .filter(|kind| kind.starts_with("anon_inode:"))
            .count(),
        3,
        "{open:?}"
    );
    assert_eq!(
        rest.iter().filter(|kind| **kind == "socket:").count(),
        1,
        "{open:?}"
    );
    assert_eq!(rest.len(), 6, "{open:?}");
}

#[test]
fn descriptors_of_another_kind_are_refused_at_the_start() {
    let flags = SocketFlags::CLOEXEC;
    let internet =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    let listener = seqpacket();
    rustix::net::bind(
        &listener,
        &SocketAddrUnix::new_abstract_name(b"portcullis-test-listener").unwrap(),
    )
    .unwrap();
    listen(&listener, 1).unwrap();
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    for (number, fd, expected) in [
        (3, internet, "descriptor 3 is not a connected"),
        (3, listener, "descriptor 3 is not a connected"),
        (3, file, "descriptor 3 is not a connected"),
        (4, pair().0, "descriptor 4 is not a sealed memfd"),
        (
            4,
            sealed(&bundle("test"), false),
            "descriptor 4 is not a sealed memfd",
        ),
        (
            4,
            sealed(b"nonsense", true),
            "descriptor 4 is not a sealed memfd",
        ),
        (4, sealed(&bundle("other"), true), "the agent \"other\""),
    ] {
        let ended = Setup::new().swapped(number, fd).fail();
        assert!(!ended.status.success());
        assert!(ended.log.contains(expected), "{expected}: {}", ended.log);
        assert_eq!(ended.log.lines().count(), 1);
    }
}
