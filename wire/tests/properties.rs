//! Properties of the codec over generated messages and bytes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use portcullis_wire::codec::{decode, decode_request, encode};
use portcullis_wire::{Attach, Body, Launch, Order, Reason, Reply, Request, Response, Target};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A text without NUL, with all that is awkward otherwise.
fn text() -> impl Strategy<Value = String> {
    "[^\u{0}]{0,40}"
}

fn word() -> impl Strategy<Value = String> {
    "[^\u{0}]{1,40}"
}

fn launch() -> impl Strategy<Value = Launch> {
    (
        word(),
        vec(text(), 0..20),
        option::of(text()),
        option::of(text()),
        vec(("[^=\u{0}]{1,8}", text()), 0..5),
        prop_oneof![Just(Attach::None), Just(Attach::Streams)],
        any::<bool>(),
    )
        .prop_map(
            |(command, args, netns, image, env, attach, dry_run)| Launch {
                command,
                args,
                netns,
                image,
                env: env.into_iter().map(|(k, v)| format!("{k}={v}")).collect(),
                attach,
                dry_run,
            },
        )
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        text().prop_map(Target::Name),
        text().prop_map(Target::Container),
        any::<(u32, u64)>().prop_map(|(pid, start_time)| Target::Process { pid, start_time }),
        (text(), option::of(text()))
            .prop_map(|(command, netns)| Target::Service { command, netns }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let body = prop_oneof![
        Just(Body::Ping),
        Just(Body::Metrics),
        launch().prop_map(Body::Launch),
        (target(), any::<u8>()).prop_map(|(target, signal)| Body::Signal { target, signal }),
        (target(), any::<Option<u32>>())
            .prop_map(|(target, timeout)| Body::Stop { target, timeout }),
        (any::<bool>(), option::of(text())).prop_map(|(all, after)| Body::List { all, after }),
        (target(), any::<Option<u32>>(), any::<bool>()).prop_map(|(target, tail, follow)| {
            Body::Logs {
                target,
                tail,
                follow,
            }
        }),
        target().prop_map(|target| Body::Wait { target }),
    ];
    (1..=u64::MAX, body).prop_map(|(id, body)| Request { id, body })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded_as_it_was(request in request()) {
        let bytes = encode(&request).unwrap();
        prop_assert_eq!(decode_request(&bytes).unwrap(), request);
    }

    #[test]
    fn a_datagram_has_one_meaning_and_a_meaning_one_datagram(request in request(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = encode(&request).unwrap();
        let at = at.index(bytes.len());
        let changed = bytes[at] != byte;
        bytes[at] = byte;
        if let Ok(other) = decode_request(&bytes) {
            prop_assert_eq!(changed, other != request);
            prop_assert_eq!(encode(&other).unwrap(), bytes);
        }
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(body in vec(any::<u8>(), 0..64)) {
        let datagram = [b"PC\x01", &body[..]].concat();
        if let Ok(request) = decode_request(&datagram) {
            prop_assert_eq!(encode(&request).unwrap(), datagram.clone());
        }
        if let Ok(response) = decode::<Response>(&datagram) {
            prop_assert_eq!(encode(&response).unwrap(), datagram.clone());
        }
        if let Ok(order) = decode::<Order>(&datagram) {
            prop_assert_eq!(encode(&order).unwrap(), datagram);
        }
    }

    #[test]
    fn a_forwarded_datagram_arrives_as_it_was(received: u64, datagram in vec(any::<u8>(), 0..300)) {
        let order = Order::Forward { connection: received, received, datagram: &datagram };
        let bytes = encode(&order).unwrap();
        prop_assert_eq!(decode::<Order>(&bytes).unwrap(), order);
    }

    #[test]
    fn a_denial_arrives_as_it_was(id: u64, number in 0..Reason::ALL.len(), rule in option::of(text()), message in text()) {
        let reply = Reply::Denied { reason: Reason::ALL[number], rule, message };
        let response = Response { id, reply };
        let bytes = encode(&response).unwrap();
        prop_assert_eq!(decode::<Response>(&bytes).unwrap(), response);
    }
}
