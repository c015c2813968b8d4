//! What is no message of the protocol, each row named after the attack it stands for.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use portcullis_wire::codec::{self, decode_request};
use portcullis_wire::limits::{ARGUMENTS, DATAGRAM, ENVIRONMENT};
use portcullis_wire::{Body, DecodeError, Launch, Order, Reason, Request, Response, Target};

fn launch(launch: Launch) -> Vec<u8> {
    codec::encode_unbounded(&Request {
        id: 1,
        body: Body::Launch(launch),
    })
    .unwrap()
}

fn plain() -> Launch {
    Launch {
        command: "true".into(),
        ..Launch::default()
    }
}

fn ping() -> Vec<u8> {
    codec::encode(&Request {
        id: 1,
        body: Body::Ping,
    })
    .unwrap()
}

/// A datagram of this version with that body.
fn raw(body: &[u8]) -> Vec<u8> {
    [b"PC\x01", body].concat()
}

#[track_caller]
fn refused(datagram: &[u8], reason: Reason) {
    assert_eq!(decode_request(datagram).unwrap_err().reason(), reason);
}

#[test]
fn an_empty_datagram_is_malformed() {
    assert_eq!(decode_request(b""), Err(DecodeError::Empty));
    refused(b"", Reason::Malformed);
}

#[test]
fn a_header_alone_or_a_part_of_it_is_malformed() {
    for cut in [&b"P"[..], b"PC", b"PC\x01", b"pc\x01\x01\x00", b"\0\0\0\0"] {
        refused(cut, Reason::Malformed);
    }
}

#[test]
fn every_cut_of_a_message_is_malformed() {
    let whole = launch(Launch {
        args: vec!["-a".into(), String::new(), "--b=c".into()],
        netns: Some("blue".into()),
        image: Some("localhost/i:1".into()),
        env: vec!["A=b".into()],
        ..plain()
    });
    assert!(decode_request(&whole).is_ok());
    for end in 0..whole.len() {
        refused(&whole[..end], Reason::Malformed);
    }
}

#[test]
fn every_other_version_is_unsupported_and_told_so() {
    for version in (0..=255).filter(|v| *v != 1) {
        let mut datagram = ping();
        datagram[2] = version;
        assert_eq!(
            decode_request(&datagram),
            Err(DecodeError::Version(version))
        );
        refused(&datagram, Reason::UnsupportedVersion);
        refused(&[b'P', b'C', version], Reason::UnsupportedVersion);
    }
}

#[test]
fn trailing_bytes_are_malformed() {
    for surplus in [&b"\0"[..], b"\xff", b"    ", &[0; 4096]] {
        refused(&[&ping()[..], surplus].concat(), Reason::Malformed);
        refused(&[&launch(plain())[..], surplus].concat(), Reason::Malformed);
    }
}

#[test]
fn two_messages_in_one_datagram_are_malformed() {
    let one = launch(plain());
    refused(&[&one[..], &one[..]].concat(), Reason::Malformed);
    refused(&[&one[..], &one[3..]].concat(), Reason::Malformed);
    refused(&[&ping()[..], &one[..]].concat(), Reason::Malformed);
}

#[test]
fn an_overlong_varint_is_malformed_wherever_it_stands() {
    assert!(decode_request(&raw(b"\x01\x00")).is_ok());
    refused(&raw(b"\x81\x00\x00"), Reason::Malformed); // the id, 1 in two bytes
    refused(&raw(b"\x81\x80\x80\x00\x00"), Reason::Malformed);
    refused(&raw(b"\x01\x80\x00"), Reason::Malformed); // the variant
    // A launch of "t" with no arguments; then each of its lengths in two bytes.
    assert!(decode_request(&raw(b"\x01\x01\x01t\x00\x00\x00\x00\x00\x00")).is_ok());
    refused(
        &raw(b"\x01\x01\x81\x00t\x00\x00\x00\x00\x00\x00"),
        Reason::Malformed,
    );
    refused(
        &raw(b"\x01\x01\x01t\x80\x00\x00\x00\x00\x00\x00"),
        Reason::Malformed,
    );
    refused(
        &raw(b"\x01\x01\x01t\x00\x00\x00\x80\x00\x00\x00"),
        Reason::Malformed,
    );
    // A varint that never ends, and one that is too big for its type.
    refused(&raw(&[0xff; 11]), Reason::Malformed);
    refused(
        &raw(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00"),
        Reason::Malformed,
    );
    // Replies and orders are as strict.
    assert!(codec::decode::<Response>(&raw(b"\x02\x07")).is_ok());
    assert!(codec::decode::<Response>(&raw(b"\x82\x00\x07")).is_err());
    assert!(codec::decode::<Order>(&raw(b"\x06\x05")).is_ok());
    assert!(codec::decode::<Order>(&raw(b"\x06\x85\x00")).is_err());
    assert!(codec::decode::<Order>(&raw(b"\x06\x05\x00")).is_err());
}

#[test]
fn a_boolean_or_option_is_one_of_two_bytes() {
    for byte in 2..=255u8 {
        refused(
            &[&raw(b"\x01\x01\x01t\x00\x00\x00\x00\x00")[..], &[byte]].concat(),
            Reason::Malformed,
        );
        refused(
            &[&raw(b"\x01\x01\x01t\x00")[..], &[byte], b"\x00\x00\x00\x00"].concat(),
            Reason::Malformed,
        );
    }
}

#[test]
fn an_unknown_kind_of_request_is_malformed() {
    for kind in 8..=127u8 {
        refused(&raw(&[1, kind]), Reason::Malformed);
    }
}

#[test]
fn a_claimed_length_of_4_g_is_malformed() {
    let four_g = b"\xff\xff\xff\xff\x0f";
    let places: &[&[u8]] = &[
        b"\x01\x01",                      // the command's text
        b"\x01\x01\x01t",                 // the number of arguments
        b"\x01\x01\x01t\x01",             // an argument's text
        b"\x01\x01\x01t\x00\x01",         // the namespace's text
        b"\x01\x01\x01t\x00\x00\x01",     // the image's text
        b"\x01\x01\x01t\x00\x00\x00",     // the number of environment entries
        b"\x01\x01\x01t\x00\x00\x00\x01", // an entry's text
        b"\x01\x02\x00",                  // a target's name
    ];
    for place in places {
        refused(&raw(&[place, &four_g[..]].concat()), Reason::Malformed);
        let filled = [place, &four_g[..], &vec![b'a'; 60_000][..]].concat();
        refused(&raw(&filled), Reason::Malformed);
    }
}

#[test]
fn an_over_long_datagram_is_too_large_whatever_is_in_it() {
    let whole = launch(Launch {
        args: vec!["x".repeat(DATAGRAM)],
        ..plain()
    });
    assert!(whole.len() > DATAGRAM);
    refused(&whole, Reason::TooLarge);
    refused(&vec![b'P'; DATAGRAM + 1], Reason::TooLarge);
    // The kernel cuts an over-long datagram: what is left must not pass as a smaller message, hiding a field.
    refused(&whole[..DATAGRAM], Reason::Malformed);
    assert!(
        codec::encode(&Request {
            id: 1,
            body: Body::Launch(Launch {
                args: vec!["x".repeat(DATAGRAM)],
                ..plain()
            })
        })
        .is_err()
    );
}

#[test]
fn a_datagram_of_exactly_the_limit_is_a_message() {
    let without = launch(Launch {
        args: vec!["x".repeat(60_000)],
        ..plain()
    });
    let text = 60_000 + DATAGRAM - without.len();
    let whole = launch(Launch {
        args: vec!["x".repeat(text)],
        ..plain()
    });
    assert_eq!(whole.len(), DATAGRAM);
    assert!(decode_request(&whole).is_ok());
}

#[test]
fn one_argument_or_entry_too_many_is_too_large() {
    let arguments = |n: usize| Launch {
        args: vec![String::new(); n],
        ..plain()
    };
    assert!(decode_request(&launch(arguments(ARGUMENTS))).is_ok());
    refused(&launch(arguments(ARGUMENTS + 1)), Reason::TooLarge);
    refused(&launch(arguments(60_000)), Reason::TooLarge);
    let entries = |n: usize| Launch {
        env: vec!["A=".into(); n],
        ..plain()
    };
    assert!(decode_request(&launch(entries(ENVIRONMENT))).is_ok());
    refused(&launch(entries(ENVIRONMENT + 1)), Reason::TooLarge);
}

#[test]
fn an_empty_argument_survives_where_it_stood() {
    let args = vec![String::new(), "a".into(), String::new(), String::new()];
    let request = decode_request(&launch(Launch {
        args: args.clone(),
        ..plain()
    }))
    .unwrap();
    let Body::Launch(launch) = request.body else {
        panic!()
    };
    assert_eq!(launch.args, args);
}

#[test]
fn an_id_of_0_is_malformed() {
    refused(&raw(b"\x00\x00"), Reason::Malformed);
    assert_eq!(
        decode_request(&raw(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"))
            .unwrap()
            .id,
        u64::MAX
    );
}

#[test]
fn a_nul_is_malformed_in_every_text() {
    let nul = || "a\0b".to_owned();
    for bad in [
        Launch {
            command: nul(),
            ..plain()
        },
        Launch {
            args: vec!["-a".into(), nul()],
            ..plain()
        },
        Launch {
            netns: Some(nul()),
            ..plain()
        },
        Launch {
            image: Some(nul()),
            ..plain()
        },
        Launch {
            env: vec!["A=\0".into()],
            ..plain()
        },
    ] {
        refused(&launch(bad), Reason::Malformed);
    }
    for target in [
        Target::Name(nul()),
        Target::Container(nul()),
        Target::Service {
            command: nul(),
            netns: None,
        },
        Target::Service {
            command: "a".into(),
            netns: Some(nul()),
        },
    ] {
        for body in [
            Body::Wait {
                target: target.clone(),
            },
            Body::Signal {
                target: target.clone(),
                signal: 1,
            },
            Body::Stop {
                target: target.clone(),
                timeout: None,
            },
            Body::Logs {
                target: target.clone(),
                tail: None,
                follow: false,
            },
        ] {
            refused(
                &codec::encode(&Request { id: 1, body }).unwrap(),
                Reason::Malformed,
            );
        }
    }
    let list = Body::List {
        all: false,
        after: Some(nul()),
    };
    refused(
        &codec::encode(&Request { id: 1, body: list }).unwrap(),
        Reason::Malformed,
    );
}

#[test]
fn bytes_that_are_not_utf8_are_malformed() {
    for text in [
        &b"\xff"[..],
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"a\xe2\x80",
    ] {
        let length = u8::try_from(text.len()).unwrap();
        let command = [&b"\x01\x01"[..], &[length], text, &[0; 6]].concat();
        refused(&raw(&command), Reason::Malformed);
        let argument = [&b"\x01\x01\x01t\x01"[..], &[length], text, &[0; 5]].concat();
        refused(&raw(&argument), Reason::Malformed);
    }
}

#[test]
fn an_environment_entry_without_a_name_or_a_value_is_malformed() {
    for entry in ["", "PATH", "=x", "="] {
        refused(
            &launch(Launch {
                env: vec![entry.into()],
                ..plain()
            }),
            Reason::Malformed,
        );
    }
    let empty_value = Launch {
        env: vec!["A=".into(), "B==".into()],
        ..plain()
    };
    assert!(decode_request(&launch(empty_value)).is_ok());
}

#[test]
fn an_empty_command_is_malformed() {
    refused(&launch(Launch::default()), Reason::Malformed);
}
