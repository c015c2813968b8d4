//! The bytes of every message of protocol 1. A change here is a change of the protocol: old clients and new brokers
//! meet on every upgrade, so numbers are appended and never moved.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use portcullis_wire::{
    Accepted, Attach, Body, Container, DenialCount, DeniedLaunch, Directive, Excerpt, Failure,
    Launch, Order, PolicyBundle, PolicyText, Pong, Reason, Reply, Request, Response, State, Target,
    codec,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The message's body, without `P`, `C`, 1.
fn body_of<T: serde::Serialize>(message: &T) -> String {
    let bytes = codec::encode(message).unwrap();
    assert_eq!(hex(&bytes[..3]), "504301", "the header");
    hex(&bytes[3..])
}

#[track_caller]
fn request(body: Body, expected: &str) {
    let request = Request { id: 1, body };
    assert_eq!(body_of(&request), expected, "{request:?}");
    let bytes = codec::encode(&request).unwrap();
    assert_eq!(codec::decode_request(&bytes).unwrap(), request);
}

#[track_caller]
fn reply(reply: Reply, expected: &str) {
    let response = Response { id: 2, reply };
    assert_eq!(body_of(&response), expected, "{response:?}");
    let bytes = codec::encode(&response).unwrap();
    assert_eq!(codec::decode_owned::<Response>(&bytes).unwrap(), response);
}

#[track_caller]
fn order(order: &Order, expected: &str) {
    assert_eq!(body_of(order), expected, "{order:?}");
    let bytes = codec::encode(order).unwrap();
    assert_eq!(codec::decode::<Order>(&bytes).unwrap(), *order);
}

fn name(text: &str) -> Target {
    Target::Name(text.into())
}

#[test]
fn every_request_has_its_number_and_its_order_of_fields() {
    request(Body::Ping, "0100");
    request(
        Body::Launch(Launch {
            command: "sh".into(),
            args: vec!["-c".into(), String::new()],
            netns: Some("n".into()),
            image: None,
            env: vec!["A=b".into()],
            attach: Attach::Streams,
            dry_run: true,
        }),
        "0101027368\
         02022d6300\
         01016e\
         00\
         0103413d62\
         01\
         01",
    );
    request(
        Body::Signal {
            target: name("a"),
            signal: 15,
        },
        "01020001610f",
    );
    request(
        Body::Stop {
            target: Target::Container("c".into()),
            timeout: Some(300),
        },
        "010301016301ac02",
    );
    request(
        Body::List {
            all: true,
            after: Some("z".into()),
        },
        "01040101017a",
    );
    request(
        Body::Logs {
            target: Target::Process {
                pid: 7,
                start_time: 300,
            },
            tail: Some(5),
            follow: true,
        },
        "01050207ac02010501",
    );
    request(
        Body::Wait {
            target: Target::Service {
                command: "d".into(),
                netns: Some("n".into()),
            },
        },
        "010603016401016e",
    );
    request(Body::Metrics, "0107");
}

#[test]
fn every_reply_has_its_number_and_its_order_of_fields() {
    reply(
        Reply::Pong(Pong {
            agent: "a".into(),
            generation: "b".into(),
            version: "c".into(),
            layers: vec!["d".into()],
            landlock_abi: 7,
            peer_identification: "e".into(),
        }),
        "02000161016201630101640\
         70165",
    );
    reply(
        Reply::Launched {
            container: "a".into(),
            name: "b".into(),
            pid: 300,
            reused: true,
        },
        "020101610162ac0201",
    );
    reply(
        Reply::Denied {
            reason: Reason::Peer,
            rule: Some("r".into()),
            message: "m".into(),
        },
        "020204010172016d",
    );
    reply(
        Reply::Failed(Failure {
            reason: Reason::Exited,
            exit: Some(3),
            message: "m".into(),
            output: "o".into(),
        }),
        "0203130103016d016f",
    );
    reply(Reply::Busy { retry_after: 200 }, "0204c801");
    reply(
        Reply::Explained {
            allowed: true,
            report: "r".into(),
        },
        "0205010172",
    );
    reply(Reply::Done { exit: Some(137) }, "02060189");
    reply(Reply::Done { exit: None }, "020600");
    reply(Reply::NotFound, "0207");
    reply(
        Reply::Containers {
            items: vec![Container {
                name: "n".into(),
                container: "c".into(),
                rule: "r".into(),
                netns: Some("s".into()),
                state: State::Running,
                pid: 1,
                age: Some(2),
                last_exit: None,
            }],
            more: true,
        },
        "020801016e016301720101730101\
         01020001",
    );
    reply(
        Reply::Chunk {
            bytes: vec![0, 255],
        },
        "02090200ff",
    );
    reply(Reply::UnsupportedVersion { spoken: vec![1] }, "020a0101");
}

#[test]
fn every_order_and_directive_has_its_number_and_its_order_of_fields() {
    order(
        &Order::Ready {
            layers: vec!["user".into()],
            landlock_abi: 1,
        },
        "0001047573657201",
    );
    order(
        &Order::Forward {
            connection: 300,
            received: 128,
            datagram: b"PC",
        },
        "01ac028001025043",
    );
    order(
        &Order::Denied(vec![DenialCount {
            reason: Reason::NoRule,
            rule: None,
            count: 2,
            uid: 3,
            gid: 4,
            pid: -1,
            message: "m".into(),
            launch: None,
        }]),
        "0201050002030401016d00",
    );
    let excerpt = |text: &str, bytes| Excerpt {
        text: text.into(),
        bytes,
    };
    order(
        &Order::Denied(vec![DenialCount {
            reason: Reason::Argument,
            rule: Some("r".into()),
            count: 1,
            uid: 0,
            gid: 0,
            pid: 7,
            message: String::new(),
            launch: Some(Box::new(DeniedLaunch {
                command: excerpt("c", 1),
                args: Some(excerpt("a\0b", 300)),
                netns: Some(excerpt("n", 1)),
                image: None,
                argv: Some("h".into()),
            })),
        }]),
        "0201080101720100000e00010163010103610062ac0201016e0100010168",
    );
    order(&Order::Closed(vec![5, 300]), "030205ac02");
    order(&Order::Heartbeat(300), "06ac02");
    order(&Order::LinkFull(300), "07ac02");
    let datagram = b"abc";
    order(
        &Order::Line {
            number: 300,
            datagram,
        },
        "04ac0203616263",
    );
    order(
        &Order::LineDenied {
            number: 1,
            denial: DenialCount {
                reason: Reason::Malformed,
                rule: None,
                count: 1,
                uid: 0,
                gid: 0,
                pid: 0,
                message: "m".into(),
                launch: None,
            },
        },
        "0501000001000000016d00",
    );
    assert_eq!(body_of(&Directive::Drain), "00");
    let line = Directive::Line {
        number: 300,
        dir: "/d".into(),
        command: "c".into(),
        text: b"n \xff".to_vec(),
    };
    assert_eq!(body_of(&line), "01ac02022f640163036e20ff");
    let accepted = Accepted {
        number: 300,
        pid: 5,
        uid: 300,
        gid: 7,
        guarded: true,
    };
    let connection = Directive::Connection(accepted);
    assert_eq!(body_of(&connection), "02ac020aac020701");
    assert_eq!(body_of(&Directive::Heartbeat(300)), "03ac02");
    assert_eq!(
        body_of(&PolicyBundle {
            agent: "a".into(),
            files: vec![PolicyText {
                path: "/p".into(),
                text: "t".into(),
            }],
        }),
        "016101022f700174"
    );
}

#[test]
fn every_reason_state_and_attachment_has_its_number() {
    let codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
    assert_eq!(
        codes,
        [
            "malformed",
            "too-large",
            "unsupported",
            "unsupported-version",
            "peer",
            "no-rule",
            "image",
            "netns",
            "argument",
            "environment",
            "name",
            "mount",
            "limit-rate",
            "limit-running",
            "limit-in-flight",
            "not-found",
            "signal",
            "policy-unavailable",
            "engine",
            "exited",
            "timeout",
            "internal"
        ]
    );
    for (number, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(body_of(reason), format!("{number:02x}"));
    }
    let states = [
        State::Launching,
        State::Running,
        State::Ended,
        State::Unknown,
        State::Readying,
    ];
    for (number, state) in states.iter().enumerate() {
        assert_eq!(body_of(state), format!("{number:02x}"));
    }
    assert_eq!(body_of(&Attach::None), "00");
    assert_eq!(body_of(&Attach::Streams), "01");
}
