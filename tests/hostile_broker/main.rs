//! A broker that an attacker has taken over: what the launcher must withstand. Never installed.
//!
//! It gives up root as the real one does, and then attacks as its file name says (`hostile-broker.ATTACK`), with the
//! one of that kind whose number stands in the file `number` beside it. It ends by forwarding the client's own request,
//! which the policy allows: the answer to that one, or the end of the connection, shows that the launcher has read all
//! that came before it.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use portcullis_tests::{DESCRIPTORS, FLOODS, FORGERIES, LAYERS, LINES, NOISE};
use portcullis_wire::{
    Attach, Body, DenialCount, DeniedLaunch, Directive, Excerpt, Launch, Order, Reason, Request,
    Target, codec, limits,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, accept_with, recv, sendmsg, socket_with, socketpair,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// The request that is forged: allowed by the tests' policy, and never sent by a client.
const FORGED: &str = "66601";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |option: &str| {
        let at = arguments.iter().position(|a| a == option);
        at.and_then(|at| arguments.get(at + 1)).cloned()
    };
    if let (Some(kind), Some(number)) = (value("--attack"), value("--number")) {
        return attack(&kind, number.parse().expect("a number"));
    }
    let me = std::fs::read_link("/proc/self/exe").expect("itself");
    let starts = OpenOptions::new()
        .create(true)
        .append(true)
        .open(me.with_file_name("starts"));
    writeln!(starts.expect("the count of starts"), "start").expect("a line");
    let kind = me.extension().and_then(|e| e.to_str()).expect("an attack");
    let number = std::fs::read_to_string(me.with_file_name("number")).unwrap_or_default();
    let number = number.parse::<usize>().unwrap_or(0).to_string();
    let id = |option| value(option).expect("an id").parse().expect("a number");
    // Not by its name: a test may have put another broker there by now.
    let failed = Command::new("/proc/self/exe")
        .args(["--attack", kind, "--number", &number])
        .uid(id("--uid"))
        .gid(id("--gid"))
        .exec();
    panic!("{failed}");
}

fn attack(kind: &str, number: usize) {
    // It may wait for a client when its launcher goes, and no test is to leave it behind.
    set_parent_process_death_signal(Some(Signal::KILL)).expect("the parent's death signal");
    let (listener, link) = (inherited(3), inherited(4));
    if kind == "crash" {
        return;
    }
    if kind == "silent" {
        return wait_for_the_end(&link);
    }
    let ready = match kind {
        "layers" => ready(&layers()[number]),
        _ => ready(&["seccomp".to_owned()]),
    };
    order(&link, &ready, &[]);
    if kind == "choke" {
        let _ = line_to_judge(&link);
        return;
    }
    if kind == "policyless" {
        if let Some(number) = line_to_judge(&link) {
            let reason = Reason::PolicyUnavailable;
            let denial = DenialCount {
                reason,
                ..reports()[0][0].clone()
            };
            order(&link, &Order::LineDenied { number, denial }, &[]);
        }
        return;
    }
    if kind == "mute" {
        let _ = line_to_judge(&link);
        return wait_for_the_end(&link);
    }
    if kind == "lines" {
        lines(&link, number);
    }
    let client = accept_with(&listener, SocketFlags::CLOEXEC).expect("a client");
    let mut bytes = vec![0; limits::DATAGRAM];
    let (length, _) = recv(&client, &mut bytes[..], RecvFlags::empty()).expect("a request");
    bytes.truncate(length);
    match kind {
        "noise" => send(&link, &noise()[number], &[]),
        "descriptors" => descriptors(&link, &listener, &client, number),
        "forgery" => forward(&link, &forgeries()[number], &[client.as_fd()]),
        "replay" => {
            for _ in 0..50 {
                forward(&link, &bytes, &[client.as_fd()]);
            }
        }
        "flood" => flood(&link, number),
        "ready" => {
            for _ in 0..2000 {
                order(&link, &ready, &[]);
            }
        }
        "empty" => send(&link, b"", &[]),
        "close-link-and-sleep" => {
            drop(link);
            loop {
                std::thread::park();
            }
        }
        "forward" | "layers" | "lines" => {} // as an honest one does, whoever the client is
        other => panic!("no attack {other}"),
    }
    forward(&link, &bytes, &[client.as_fd()]);
    wait_for_the_end(&link);
}

/// Bytes that are no orders.
fn noise() -> [Vec<u8>; NOISE] {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |length: usize| -> Vec<u8> {
        let mut byte = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[2]
        };
        (0..length).map(|_| byte()).collect()
    };
    let order = |body: &[u8]| [b"PC\x01", body].concat();
    [
        random(1),
        random(200),
        order(&random(200)),
        order(&random(20)),
        vec![b'P'; 100_000],
        order(b"\x01\x00\xff\xff\xff\xff\x0f"), // a claimed length of 4 G
        order(b"\x02\xff\xff\xff\xff\x0f"),
        order(b"\x03\x05\x00\x00\x00"), // trailing bytes
        order(b"\x03\x85\x00"),         // an overlong varint
        b"PC\x02\x03\x05".to_vec(),     // another version
    ]
}

/// An allowed request with descriptors that are no client's socket, or too many, or with what carries none.
fn descriptors(link: &OwnedFd, listener: &OwnedFd, client: &OwnedFd, number: usize) {
    let close = SocketFlags::CLOEXEC;
    let unix = AddressFamily::UNIX;
    let pair = |kind| socketpair(unix, kind, close, None).expect("a pair");
    let (left, _right) = pair(SocketType::SEQPACKET);
    let (stream, _other) = pair(SocketType::STREAM);
    let alone = socket_with(unix, SocketType::SEQPACKET, close, None).expect("a socket");
    let (pipe, _write) = rustix::pipe::pipe().expect("a pipe");
    let file = File::open("/proc/self/status").expect("a file");
    let null = File::open("/dev/null").expect("a device");
    let tcp = socket_with(AddressFamily::INET, SocketType::STREAM, close, None).expect("a socket");
    let client = client.as_fd();
    let sets: [&[BorrowedFd]; DESCRIPTORS] = [
        &[],
        &[client, client],
        &[client; 16],
        &[client; 253],
        &[left.as_fd()],
        &[stream.as_fd()],
        &[alone.as_fd()],
        &[pipe.as_fd()],
        &[tcp.as_fd()],
        &[file.as_fd()],
        &[null.as_fd()],
        &[listener.as_fd()],
        &[link.as_fd()],
        &[client],
        &[client; 100],
    ];
    match number {
        13 => order(link, &Order::Connections(1), sets[13]),
        14 => send(link, b"?", sets[14]),
        _ => forward(link, &launch(&[FORGED]), sets[number]),
    }
}

/// Datagrams that no client sent: not allowed, not to be served, or no requests at all.
fn forgeries() -> [Vec<u8>; FORGERIES] {
    let plain = || Launch {
        command: "sleep".into(),
        args: vec![FORGED.into()],
        ..Launch::default()
    };
    let request = |body| codec::encode(&Request { id: 7, body }).expect("a request");
    let ask = |launch| request(Body::Launch(launch));
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let target = || Target::Name("sleep-5000".into());
    let good = launch(&[FORGED]);
    [
        ask(Launch {
            command: "sh".into(),
            args: texts(&["-c", "id"]),
            ..Launch::default()
        }),
        ask(Launch {
            command: "/bin/sleep".into(),
            ..plain()
        }),
        ask(Launch {
            command: "--privileged".into(),
            ..plain()
        }),
        ask(Launch {
            args: texts(&["--privileged"]),
            ..plain()
        }),
        ask(Launch {
            args: texts(&[FORGED, "-v/:/host"]),
            ..plain()
        }),
        ask(Launch {
            args: texts(&["1 --privileged"]),
            ..plain()
        }),
        ask(Launch {
            netns: Some("host".into()),
            ..plain()
        }),
        ask(Launch {
            netns: Some("../../proc/1/ns/net".into()),
            ..plain()
        }),
        ask(Launch {
            image: Some("docker-archive:/tmp/x.tar".into()),
            ..plain()
        }),
        ask(Launch {
            image: Some("localhost/other:1".into()),
            ..plain()
        }),
        ask(Launch {
            env: texts(&["LD_PRELOAD=/tmp/x.so"]),
            ..plain()
        }),
        ask(Launch {
            attach: Attach::Streams,
            ..plain()
        }),
        ask(Launch {
            dry_run: true,
            ..plain()
        }),
        request(Body::Ping),
        request(Body::Metrics),
        request(Body::List {
            all: true,
            after: None,
        }),
        request(Body::Stop {
            target: target(),
            timeout: Some(0),
        }),
        request(Body::Signal {
            target: target(),
            signal: 9,
        }),
        Vec::new(),
        b"PC\x02\x01\x00".to_vec(),
        [&good[..], b"\0"].concat(),
        [&good[..], &good[..]].concat(),
        launch(&[FORGED; 1025]),
        [&good[..], &[0; 80_000]].concat(),
    ]
}

/// Waits for a line, and gives its number; none after a while, as there is none any more over which brokers have ended.
fn line_to_judge(link: &OwnedFd) -> Option<u64> {
    let mut bytes = vec![0; 2 * limits::DATAGRAM];
    let patience = Some(Duration::from_secs(2));
    set_socket_timeout(link, Timeout::Recv, patience).expect("a timeout");
    loop {
        let (length, _) = match recv(link, &mut bytes[..], RecvFlags::empty()) {
            Err(Errno::AGAIN) => {
                set_socket_timeout(link, Timeout::Recv, None).expect("no timeout");
                return None;
            }
            received => received.expect("a directive"),
        };
        if length == 0 {
            std::process::exit(0); // the launcher has cut the link
        }
        if let Ok(Directive::Line { number, .. }) = codec::decode_owned(&bytes[..length]) {
            set_socket_timeout(link, Timeout::Recv, None).expect("no timeout");
            return Some(number);
        }
    }
}

/// Waits for a line, and answers as no honest broker does.
fn lines(link: &OwnedFd, attack: usize) {
    let Some(number) = line_to_judge(link) else {
        return;
    };
    let plain = |args: &[&str]| Launch {
        command: "sleep".into(),
        args: args.iter().map(ToString::to_string).collect(),
        ..Launch::default()
    };
    let honest = launch(&["1001"]);
    let forged = launch(&[FORGED]);
    let line = |number, datagram: &[u8], descriptors: &[BorrowedFd]| {
        order(link, &Order::Line { number, datagram }, descriptors);
    };
    let denied = |number| {
        let denial = reports()[0][0].clone();
        order(link, &Order::LineDenied { number, denial }, &[]);
    };
    let ask = |launch| {
        let body = Body::Launch(launch);
        codec::encode(&Request { id: number, body }).expect("a request")
    };
    let request = |body| codec::encode(&Request { id: number, body }).expect("a request");
    let attacks: [&dyn Fn(); LINES] = [
        // Of lines that it was not given, or not any more.
        &|| line(number + 1, &forged, &[]),
        &|| line(0, &forged, &[]),
        &|| line(u64::MAX, &forged, &[]),
        &|| denied(number + 1),
        &|| {
            line(number, &honest, &[]);
            line(number, &forged, &[]);
        },
        &|| {
            denied(number);
            line(number, &forged, &[]);
        },
        // What no line can say.
        &|| line(number, &request(Body::Ping), &[]),
        &|| line(number, b"", &[]),
        &|| line(number, b"PC", &[]),
        &|| line(number, &[&forged[..], b"\0"].concat(), &[]),
        &|| {
            let image = Some("localhost/other:1".into());
            let launch = Launch {
                image,
                ..plain(&[FORGED])
            };
            line(number, &ask(launch), &[]);
        },
        &|| {
            let env = vec!["LD_PRELOAD=/tmp/x.so".into()];
            let launch = Launch {
                env,
                ..plain(&[FORGED])
            };
            line(number, &ask(launch), &[]);
        },
        &|| {
            let attach = Attach::Streams;
            let launch = Launch {
                attach,
                ..plain(&[FORGED])
            };
            line(number, &ask(launch), &[]);
        },
        &|| {
            let launch = Launch {
                dry_run: true,
                ..plain(&[FORGED])
            };
            line(number, &ask(launch), &[]);
        },
        &|| line(number, &forged, &[link.as_fd()]),
        // What the policy does not allow to lines of this spool.
        &|| line(number, &ask(plain(&["--privileged"])), &[]),
        &|| {
            let command = "sh".into();
            let launch = Launch {
                command,
                ..plain(&["-c", FORGED])
            };
            line(number, &ask(launch), &[]);
        },
        &|| {
            let command = "nap".into();
            let launch = Launch {
                command,
                ..plain(&[FORGED])
            };
            line(number, &ask(launch), &[]);
        },
        &|| {
            let netns = Some("../../proc/1/ns/net".into());
            let launch = Launch {
                netns,
                ..plain(&[FORGED])
            };
            line(number, &ask(launch), &[]);
        },
        // A denial whose words are records and assignments.
        &|| denied(number),
    ];
    attacks[attack]();
}

/// More reports than anybody wants to read, each in an order of its own or all in one.
fn flood(link: &OwnedFd, number: usize) {
    let reports = reports();
    for round in 0..500 {
        order(link, &Order::Denied(reports[number].clone()), &[]);
        order(link, &Order::Connections(round), &[]);
        order(link, &Order::Connections(u32::MAX), &[]);
    }
}

/// Denials with records in their words: one that is long, and many.
fn reports() -> [Vec<DenialCount>; FLOODS] {
    let forged = "\n{\"verdict\":\"allowed\",\"rule\":\"forged\"}".repeat(200);
    let excerpt = Excerpt {
        text: forged.clone(),
        bytes: 0,
    };
    let launch = DeniedLaunch {
        command: excerpt.clone(),
        args: Some(excerpt.clone()),
        netns: Some(excerpt.clone()),
        image: Some(excerpt),
    };
    let count = DenialCount {
        reason: Reason::NoRule,
        rule: Some("x".repeat(1000)),
        count: u32::MAX,
        uid: 0,
        gid: 0,
        pid: -1,
        message: forged,
        launch: Some(launch),
    };
    let short = DenialCount {
        rule: None,
        message: String::new(),
        launch: None,
        ..count.clone()
    };
    [vec![count], vec![short; 1000]]
}

fn ready(layers: &[String]) -> Order<'static> {
    Order::Ready {
        layers: layers.to_vec(),
        landlock_abi: 255,
    }
}

/// What is no layer of any sandbox: words to the service manager, and more of them than it takes.
fn layers() -> [Vec<String>; LAYERS] {
    let one = |layer: &str| vec!["seccomp".to_owned(), layer.to_owned()];
    [
        one("x\nMAINPID=1234"),
        one("x\nWATCHDOG=trigger"),
        one("x\nSTOPPING=1"),
        one("\n\u{202e}forged"),
        one(&"x".repeat(5 * 1024)),
        one(&"x".repeat(60 * 1024)),
        vec!["seccomp".to_owned(); 60 * 1024 / 8],
    ]
}

fn launch(args: &[&str]) -> Vec<u8> {
    let body = Body::Launch(Launch {
        command: "sleep".into(),
        args: args.iter().map(ToString::to_string).collect(),
        ..Launch::default()
    });
    codec::encode_unbounded(&Request { id: 7, body }).expect("a request")
}

fn forward(link: &OwnedFd, datagram: &[u8], descriptors: &[BorrowedFd]) {
    let received = u64::MAX;
    order(link, &Order::Forward { received, datagram }, descriptors);
}

fn order(link: &OwnedFd, order: &Order, descriptors: &[BorrowedFd]) {
    let bytes = codec::encode_unbounded(order).expect("an order");
    send(link, &bytes, descriptors);
}

fn send(link: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let bytes = [IoSlice::new(bytes)];
    if sendmsg(link, &bytes, &mut ancillary, SendFlags::NOSIGNAL).is_err() {
        std::process::exit(0); // the launcher has cut the link: its good right
    }
}

fn wait_for_the_end(link: &OwnedFd) {
    let mut buffer = [0; 64];
    while let Ok((1.., _)) = recv(link, &mut buffer[..], RecvFlags::empty()) {}
}

#[allow(unsafe_code)]
fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the launcher opened it for this process before its start, and each is asked for once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let flags = fcntl_getfl(&descriptor).expect("its flags");
    fcntl_setfl(&descriptor, flags - OFlags::NONBLOCK).expect("blocking");
    descriptor
}
