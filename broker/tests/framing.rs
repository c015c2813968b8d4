//! Attacks on the framing: each gets one error, and the connection lives.

use crate::harness::{Broker, Client, sleep};
use portcullis_wire::{Body, Launch, Reason, Reply, Request, Response, codec, limits};
use rustix::net::{Shutdown, shutdown};

/// Asks that `bytes` get one denial with that reason, and that the connection serves on.
fn is_denied(bytes: &[u8], reason: Reason) {
    let broker = Broker::start();
    let mut client = broker.connect();
    client.send(bytes);
    denied(&client, 0, reason);
    client.ping();
}

fn denied(client: &Client, id: u64, expected: Reason) {
    match client.reply() {
        Some(Response {
            id: got,
            reply: Reply::Denied { reason, .. },
        }) => {
            assert_eq!((got, reason), (id, expected));
        }
        other => panic!("{other:?}"),
    }
}

fn launch(launch: Launch) -> Vec<u8> {
    codec::encode_unbounded(&Request {
        id: 9,
        body: Body::Launch(launch),
    })
    .unwrap()
}

fn ping() -> Vec<u8> {
    codec::encode(&Request {
        id: 9,
        body: Body::Ping,
    })
    .unwrap()
}

#[test]
fn an_over_long_datagram_that_hides_a_field_is_too_large() {
    // What is left when the datagram is cut at the limit is a whole message with another meaning.
    let mut bytes = ping();
    bytes.resize(limits::DATAGRAM + 1, 0);
    is_denied(&bytes, Reason::TooLarge);
    bytes.resize(limits::DATAGRAM + 4096, 0);
    is_denied(&bytes, Reason::TooLarge);
}

#[test]
fn the_longest_datagram_is_read_whole() {
    let args = vec!["x".repeat(65_000), "y".repeat(502)];
    let bytes = launch(Launch { args, ..sleep("1") });
    assert!(limits::DATAGRAM - bytes.len() < 20, "{}", bytes.len());
    let broker = Broker::start();
    let client = broker.connect();
    client.send(&bytes);
    denied(&client, 9, Reason::Argument);
}

#[test]
fn an_empty_datagram_is_malformed_and_ends_the_connection() {
    let broker = Broker::start();
    let client = broker.connect();
    client.send(&[]);
    denied(&client, 0, Reason::Malformed);
    assert_eq!(client.reply(), None);
    broker.connect().ping();
}

#[test]
fn a_client_that_only_stops_sending_is_told_nothing_more() {
    let broker = Broker::start();
    let mut client = broker.connect();
    client.request(Body::Launch(sleep("5")));
    shutdown(&client.socket, Shutdown::Write).unwrap();
    broker.forwarded();
    assert_eq!(client.reply(), None);
}

#[test]
fn trailing_bytes_are_malformed() {
    is_denied(&[ping(), vec![0]].concat(), Reason::Malformed);
    is_denied(&[launch(sleep("1")), vec![0]].concat(), Reason::Malformed);
}

#[test]
fn two_messages_in_one_datagram_are_malformed() {
    is_denied(&[ping(), ping()].concat(), Reason::Malformed);
}

#[test]
fn an_overlong_varint_is_malformed() {
    // The id 9 in two bytes.
    is_denied(b"PC\x01\x89\x00\x00", Reason::Malformed);
}

#[test]
fn claimed_lengths_of_four_gigabytes_are_malformed_and_cost_no_memory() {
    let broker = Broker::start();
    let mut client = broker.connect();
    client.ping();
    let before = broker.resident();
    const FOUR_G: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0x0f];
    let command = [b"PC\x01\x09\x01".as_slice(), FOUR_G].concat();
    let args = [b"PC\x01\x09\x01\x05sleep".as_slice(), FOUR_G].concat();
    let args_and_more = [args.as_slice(), &[0; 60_000]].concat();
    for bytes in [&command, &args, &args_and_more] {
        for _ in 0..200 {
            client.send(bytes);
            denied(&client, 0, Reason::Malformed);
        }
    }
    client.ping();
    assert!(
        broker.resident() < before + 512,
        "{} kB before, {} after",
        before,
        broker.resident()
    );
}

#[test]
fn an_unknown_version_is_told_which_are_spoken() {
    let broker = Broker::start();
    let mut client = broker.connect();
    client.send(b"PC\x02\x09\x00");
    let spoken = vec![limits::VERSION];
    assert_eq!(
        client.reply(),
        Some(Response {
            id: 0,
            reply: Reply::UnsupportedVersion { spoken }
        })
    );
    client.ping();
}

#[test]
fn what_is_no_message_at_all_is_malformed() {
    is_denied(b"GET / HTTP/1.1\r\n\r\n", Reason::Malformed);
    is_denied(b"P", Reason::Malformed);
    is_denied(&[0], Reason::Malformed);
    is_denied(b"PC\x01", Reason::Malformed);
    is_denied(b"PC\x01\x09\x7f", Reason::Malformed);
}

#[test]
fn a_nul_or_bytes_that_are_not_utf_8_are_malformed() {
    is_denied(
        &launch(Launch {
            command: "sle\0ep".to_owned(),
            ..Launch::default()
        }),
        Reason::Malformed,
    );
    let mut bytes = launch(sleep("12"));
    let at = bytes.windows(2).position(|two| two == b"12").unwrap();
    bytes[at] = 0xff;
    is_denied(&bytes, Reason::Malformed);
}

#[test]
fn more_arguments_or_environment_than_allowed_are_too_large() {
    is_denied(
        &launch(Launch {
            args: vec![String::new(); 1025],
            ..sleep("1")
        }),
        Reason::TooLarge,
    );
    is_denied(
        &launch(Launch {
            env: vec!["A=b".to_owned(); 129],
            ..sleep("1")
        }),
        Reason::TooLarge,
    );
}

#[test]
fn an_id_of_0_is_malformed() {
    is_denied(b"PC\x01\x00\x00", Reason::Malformed);
}

#[test]
fn many_requests_on_one_connection_are_all_answered() {
    let broker = Broker::start();
    let mut client = broker.connect();
    for _ in 0..50 {
        client.request(Body::Ping);
        client.send(b"nonsense");
    }
    let ids: Vec<u64> = (0..100).map(|_| client.reply().unwrap().id).collect();
    assert_eq!(ids, (1..=50).flat_map(|id| [id, 0]).collect::<Vec<_>>());
}
