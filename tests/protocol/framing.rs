//! Framing: bytes that are no message, sent to the whole pair. Each gets one clear answer, and the connection lives.

use portcullis_tests::{Client, HOSTS, Host, SLEEP, Service, holds, launch, launched};
use portcullis_wire::limits::{ARGUMENTS, DATAGRAM};
use portcullis_wire::{Body, Launch, Reason, Reply, Request, codec};
use std::io::ErrorKind;
use std::os::fd::AsFd;

/// Sends it on a connection of its own and gives the reason; then looks that the connection lives and nothing ran.
#[track_caller]
fn refused(service: &Service, datagram: &[u8]) -> Reason {
    let mut client = service.client();
    client.send_bytes(datagram).unwrap();
    let reason = reason(&client);
    assert!(client.is_served(), "the connection lives");
    reason
}

#[track_caller]
fn reason(client: &Client) -> Reason {
    let response = client.reply();
    assert_eq!(response.id, 0, "an unreadable request has no id");
    match response.reply {
        Reply::Denied {
            reason, message, ..
        } => {
            assert!(
                !message.is_empty() && !message.contains('\n'),
                "{message:?}"
            );
            reason
        }
        other => panic!("not Denied: {other:?}"),
    }
}

fn encoded(launch: Launch) -> Vec<u8> {
    let body = Body::Launch(launch);
    codec::encode_unbounded(&Request { id: 9, body }).unwrap()
}

fn good() -> Vec<u8> {
    encoded(launch("sleep", &["100"]))
}

#[test]
fn invariant_4_broken_input_gets_one_clear_error_and_starts_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let trailing = [&good()[..], b"\0"].concat();
    let twice = [good(), good()].concat();
    let overlong = b"PC\x01\x89\x00\x01\x05sleep\x01\x03100\x00\x00\x00\x00\x00".to_vec();
    let not_overlong = b"PC\x01\x09\x01\x05sleep\x01\x03100\x00\x00\x00\x00\x00".to_vec();
    assert_eq!(
        not_overlong,
        good(),
        "the overlong one differs in its varint alone"
    );
    let claims = b"PC\x01\x09\x01\x05sleep\xff\xff\xff\xff\x0f".to_vec();
    let nul = encoded(launch("sleep", &["1\x0000"]));
    let not_utf8 = b"PC\x01\x09\x01\x05sl\xff\xfep\x01\x03100\x00\x00\x00\x00\x00".to_vec();
    for (attack, datagram) in [
        ("trailing bytes", trailing),
        ("two messages in one", twice),
        ("an overlong varint", overlong),
        ("a claimed length of 4 G", claims),
        ("a NUL", nul),
        ("bytes that are not UTF-8", not_utf8),
        ("a header alone", b"PC\x01".to_vec()),
        ("no header", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a cut message", good()[..12].to_vec()),
    ] {
        assert_eq!(refused(&service, &datagram), Reason::Malformed, "{attack}");
    }
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn an_over_long_datagram_that_hides_a_field_is_too_large() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    // What the kernel leaves of it when it is cut to the limit would be a launch with fewer arguments.
    let mut launch = launch("sleep", &["100"]);
    launch.args.push("x".repeat(DATAGRAM));
    assert_eq!(
        refused(&service, &encoded(launch.clone())),
        Reason::TooLarge
    );
    launch.args = vec!["1".into(); ARGUMENTS + 1];
    assert_eq!(refused(&service, &encoded(launch)), Reason::TooLarge);
    let mut padded = good();
    padded.resize(DATAGRAM + 1, 0);
    assert_eq!(refused(&service, &padded), Reason::TooLarge);
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn an_empty_datagram_is_malformed_and_ends_the_connection() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let mut client = service.client();
    assert!(client.is_served());
    client.send_bytes(b"").unwrap();
    assert_eq!(reason(&client), Reason::Malformed);
    assert_eq!(client.receive().unwrap(), None, "closed");
    assert!(service.client().is_served(), "others are served");
}

#[test]
fn an_unknown_version_is_told_which_are_spoken() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    for version in [0, 2, 255] {
        let mut client = service.client();
        let mut datagram = good();
        datagram[2] = version;
        client.send_bytes(&datagram).unwrap();
        let reply = client.reply().reply;
        assert_eq!(reply, Reply::UnsupportedVersion { spoken: vec![1] });
        assert!(client.is_served());
    }
}

/// None gets anywhere: the kernel refuses them (from Linux 6.16 on), or drops them and the request is served.
#[test]
fn invariant_10_flood_of_descriptors_leaves_the_count_flat() {
    for without in HOSTS {
        let host = Host::new();
        let agent = host.agent("blue", SLEEP).older(without);
        let service = agent.start();
        let mut client = service.client();
        assert!(client.is_served());
        let counts = |service: &Service| {
            let of = |process: portcullis_tests::Process| process.descriptors().len();
            (of(service.broker()), of(service.launcher()))
        };
        let before = counts(&service);
        let null = std::fs::File::open("/dev/null").unwrap();
        let ping = codec::encode(&Request {
            id: 1,
            body: Body::Ping,
        })
        .unwrap();
        for number in [1, 2, 3, 16, 253] {
            let descriptors = vec![null.as_fd(); number];
            for _ in 0..40 {
                match client.send_descriptors(&ping, &descriptors) {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
                    Ok(()) => assert!(matches!(client.reply().reply, Reply::Pong(_))),
                }
            }
        }
        assert!(client.is_served());
        drop(client);
        let mut client = service.client();
        assert!(client.is_served());
        // The launcher may have been asking podman what runs at first, and then had more.
        holds("the count is what it was", || {
            let after = counts(&service);
            after.0 == before.0 && after.1 <= before.1
        });
        assert!(host.engine().calls().runs().is_empty());
    }
}

#[test]
fn invariant_4_ten_thousand_broken_datagrams_leave_memory_flat() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let mut client = service.client();
    // What a launch needs for the first time is no growth.
    let _ = launched(client.launch(launch("sleep", &["1000"])));
    let claims = b"PC\x01\x09\x01\x05sleep\xff\xff\xff\xff\x0f".to_vec();
    let mut padded = good();
    padded.resize(DATAGRAM, 0);
    let many = encoded(launch("sleep", &vec!["1"; 20_000]));
    let round = |times: usize| {
        for _ in 0..times {
            for bytes in [&claims, &padded, &many] {
                client.send_bytes(bytes).unwrap();
                assert!(matches!(client.reply().reply, Reply::Denied { .. }));
            }
        }
    };
    round(300);
    let before = (service.broker().resident(), service.launcher().resident());
    round(3000);
    let after = (service.broker().resident(), service.launcher().resident());
    let room = 256 * 1024;
    assert!(
        after.0 <= before.0 + room && after.1 <= before.1 + room,
        "{before:?} {after:?}"
    );
}
