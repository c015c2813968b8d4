//! Descriptors that were not asked for, coming in; and those that the broker starts with.

use crate::harness::{Broker, Setup, sealed, seqpacket};
use portcullis_wire::{Body, Launch, PolicyBundle, PolicyText, Reason, Reply, Request, codec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, listen, socketpair};
use std::os::fd::{AsFd, OwnedFd};

#[test]
fn a_flood_of_descriptors_is_refused_and_leaves_none_open() {
    let broker = Broker::start();
    let mut client = broker.connect();
    client.ping();
    let before = broker.descriptors();
    let ping = codec::encode(&Request {
        id: 7,
        body: Body::Ping,
    })
    .unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for count in [1, 2, 253] {
        for _ in 0..100 {
            client.send_with(&ping, &vec![file.as_fd(); count]);
            match client.reply() {
                Some(response) => {
                    assert_eq!(response.id, 7);
                    assert!(
                        matches!(
                            response.reply,
                            Reply::Denied {
                                reason: Reason::Malformed,
                                ..
                            }
                        ),
                        "{response:?}"
                    );
                }
                None => panic!("the connection was closed"),
            }
        }
        assert_eq!(broker.descriptors(), before);
    }
    client.ping();
}

#[test]
fn descriptors_are_refused_with_every_kind_of_request() {
    let broker = Broker::start();
    let client = broker.connect();
    let file = std::fs::File::open("/dev/null").unwrap();
    let launch = Launch {
        attach: portcullis_wire::Attach::Streams,
        ..crate::harness::sleep("1")
    };
    for (body, expected) in [
        (Body::Launch(crate::harness::sleep("1")), Reason::Malformed),
        (Body::Launch(launch), Reason::Unsupported),
        (
            Body::Wait {
                target: portcullis_wire::Target::Process(1),
            },
            Reason::Unsupported,
        ),
    ] {
        client.send_with(
            &codec::encode(&Request { id: 1, body }).unwrap(),
            &[file.as_fd(); 3],
        );
        match client.reply().unwrap().reply {
            Reply::Denied { reason, .. } => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        }
    }
    client.send_with(b"nonsense", &[file.as_fd()]);
    assert_eq!(client.reply().unwrap().id, 0);
}

#[test]
fn a_sockets_own_connection_in_its_datagrams_is_not_kept_alive() {
    // A socket that travels through itself outlives its owners unless the receiver drops it.
    let broker = Broker::start();
    let mut client = broker.connect();
    client.ping();
    let before = broker.descriptors();
    client.send_with(b"x", &[client.socket.as_fd()]);
    client.reply().unwrap();
    drop(client);
    crate::harness::until("the connection is closed", || broker.descriptors() < before);
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
        .position(|kind| kind.starts_with("/tmp/"))
        .unwrap();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| kind.starts_with("/tmp/"))
            .count(),
        1,
        "{open:?}"
    );
    // The log, 0 and 1, the event loop's own three, listener and link.
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
        2,
        "{open:?}"
    );
    assert_eq!(rest.len(), 7, "{open:?}");
}

#[test]
fn descriptors_of_another_kind_are_refused_at_the_start() {
    let datagram = {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        listen(&socket, 1).unwrap();
        socket
    };
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    for (number, fd, expected) in [
        (3, datagram, "descriptor 3 is not a listening"),
        (3, seqpacket(), "descriptor 3 is not a listening"),
        (4, file, "descriptor 4 is not a connected"),
        (5, pair().0, "descriptor 5 is not a sealed memfd"),
        (
            5,
            sealed(&bundle("test"), false),
            "descriptor 5 is not a sealed memfd",
        ),
        (
            5,
            sealed(b"nonsense", true),
            "descriptor 5 is not a sealed memfd",
        ),
        (5, sealed(&bundle("other"), true), "the agent \"other\""),
    ] {
        let ended = Setup::new().swapped(number, fd).fail();
        assert!(!ended.status.success());
        assert!(ended.log.contains(expected), "{expected}: {}", ended.log);
        assert_eq!(ended.log.lines().count(), 1);
    }
}
