//! What a datagram claims costs nothing: memory stays in proportion to the bytes that came.

use portcullis_tests::peak;
use portcullis_wire::codec::{self, decode_request};
use portcullis_wire::limits::DATAGRAM;
use portcullis_wire::{Body, Launch, Order, Request, Response};

/// What decoding may hold at once, beside the texts themselves.
const ROOM: isize = 16 * 1024;

#[test]
fn invariant_4_a_claimed_length_of_4_g_allocates_nothing() {
    let four_g = b"\xff\xff\xff\xff\x0f";
    let places: &[&[u8]] = &[
        b"\x01\x01",
        b"\x01\x01\x01t",
        b"\x01\x01\x01t\x01",
        b"\x01\x01\x01t\x00\x01",
        b"\x01\x01\x01t\x00\x00\x00",
        b"\x01\x02\x00",
    ];
    for place in places {
        let datagram = [b"PC\x01", *place, four_g].concat();
        let (result, most) = peak(|| decode_request(&datagram));
        assert!(result.is_err());
        assert!(most < ROOM, "{most} bytes for {datagram:?}");
    }
}

#[test]
fn sixty_thousand_arguments_are_not_stored_before_they_are_refused() {
    let request = Request {
        id: 1,
        body: Body::Launch(Launch {
            command: "t".into(),
            args: vec![String::new(); 60_000],
            ..Launch::default()
        }),
    };
    let datagram = codec::encode(&request).unwrap();
    let (result, most) = peak(|| decode_request(&datagram));
    assert!(result.is_err());
    // 1,025 empty texts and the list's growth: not 60,000 of 24 bytes.
    assert!(most < 128 * 1024, "{most} bytes");
}

#[test]
fn the_largest_request_costs_about_its_own_size() {
    let request = Request {
        id: 1,
        body: Body::Launch(Launch {
            command: "t".into(),
            args: vec!["x".repeat(60); 1024],
            ..Launch::default()
        }),
    };
    let datagram = codec::encode(&request).unwrap();
    assert!(datagram.len() < DATAGRAM);
    let (result, most) = peak(|| decode_request(&datagram));
    assert!(result.is_ok());
    assert!(most < 3 * DATAGRAM.cast_signed(), "{most} bytes");
}

#[test]
fn replies_and_orders_claim_no_memory_either() {
    let four_g = b"\xff\xff\xff\xff\x0f";
    // A chunk, a page of containers, a pong's layers; denials, a forwarded datagram.
    for body in [&b"\x01\x09"[..], b"\x01\x08", b"\x01\x00\x00\x00\x00"] {
        let datagram = [b"PC\x01", body, four_g].concat();
        let (result, most) = peak(|| codec::decode_owned::<Response>(&datagram).is_ok());
        assert!(!result && most < ROOM, "{most} bytes for {datagram:?}");
    }
    for body in [&b"\x02"[..], b"\x01\x00", b"\x00"] {
        let datagram = [b"PC\x01", body, four_g].concat();
        let (result, most) = peak(|| codec::decode::<Order>(&datagram).is_ok());
        assert!(!result && most < ROOM, "{most} bytes for {datagram:?}");
    }
}
