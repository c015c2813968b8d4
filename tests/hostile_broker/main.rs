//! A broker that an attacker has taken over: what the launcher must withstand. Never installed.
//!
//! It gives up root as the real one does, and then attacks as its file name says (`hostile-broker.ATTACK`), with the
//! one of that kind whose number stands in the file `number` beside it. It ends by forwarding the client's own request,
//! which the policy allows: the answer to that one, or the end of the connection, shows that the launcher has read all
//! that came before it.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use portcullis_tests::{CONNECTIONS, DESCRIPTORS, FLOODS, FORGERIES, LAYERS, LINES, NOISE};
use portcullis_wire::{
    Attach, Body, DenialCount, DeniedLaunch, Directive, Excerpt, Launch, Order, Reason, Request,
    Target, codec, limits,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Write};
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
    let mut link = Link::new(inherited(3));
    if kind == "crash" {
        return;
    }
    if kind == "silent" {
        return link.wait_for_the_end();
    }
    let ready = match kind {
        "layers" => ready(&layers()[number]),
        _ => ready(&["seccomp".to_owned()]),
    };
    link.order(&ready);
    if kind == "choke" {
        let _ = link.line_to_judge();
        return;
    }
    if kind == "policyless" {
        if let Some(number) = link.line_to_judge() {
            let reason = Reason::PolicyUnavailable;
            let denial = DenialCount {
                reason,
                ..reports()[0][0].clone()
            };
            link.order(&Order::LineDenied { number, denial });
        }
        return;
    }
    if kind == "misread" {
        if let Some(number) = link.line_to_judge() {
            let datagram = &launch(&[FORGED])[..];
            link.order(&Order::Line { number, datagram });
        }
        return link.wait_for_the_end();
    }
    if kind == "mute" {
        let _ = link.line_to_judge();
        return link.wait_for_the_end();
    }
    if kind == "lines" {
        lines(&mut link, number);
    }
    let (connection, client) = link.connection();
    if kind == "frozen" {
        loop {
            std::thread::park();
        }
    }
    let mut bytes = vec![0; limits::DATAGRAM];
    let (length, _) = recv(&client, &mut bytes[..], RecvFlags::empty()).expect("a request");
    bytes.truncate(length);
    match kind {
        "noise" => link.send(&noise()[number], &[]),
        "descriptors" => descriptors(&link, connection, &client, number),
        "connections" => connections(&link, connection, &bytes, number),
        "forgery" => link.forward(connection, &forgeries()[number]),
        "replay" => {
            for _ in 0..50 {
                link.forward(connection, &bytes);
            }
        }
        "flood" => flood(&link, number),
        "overflow" => {
            for _ in 0..100 {
                link.order(&Order::LinkFull(1));
            }
            link.order(&Order::Denied(reports()[0].clone()));
        }
        "ready" => {
            for _ in 0..2000 {
                link.order(&ready);
            }
        }
        "empty" => link.send(b"", &[]),
        "close-link-and-sleep" => {
            drop(link);
            loop {
                std::thread::park();
            }
        }
        "forward" | "layers" | "lines" => {} // as an honest one does, whoever the client is
        other => panic!("no attack {other}"),
    }
    link.forward(connection, &bytes);
    link.wait_for_the_end();
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

/// An allowed request, or another order, with descriptors. None may bring any.
fn descriptors(link: &Link, connection: u64, client: &OwnedFd, number: usize) {
    let (pipe, _write) = rustix::pipe::pipe().expect("a pipe");
    let file = File::open("/proc/self/status").expect("a file");
    let client = client.as_fd();
    let sets: [&[BorrowedFd]; DESCRIPTORS] = [
        &[client],
        &[client, client],
        &[client; 16],
        &[client; 253],
        &[pipe.as_fd()],
        &[file.as_fd()],
        &[link.socket.as_fd()],
        &[client],
        &[client; 100],
    ];
    let forged = Order::Forward {
        connection,
        received: 0,
        datagram: &launch(&[FORGED]),
    };
    let order = match number {
        7 => Order::Closed(vec![]),
        _ => forged,
    };
    match number {
        8 => link.send(b"?", sets[8]),
        _ => link.send(
            &codec::encode_unbounded(&order).expect("an order"),
            sets[number],
        ),
    }
}

/// Orders about connections that are not this broker's, or not any more.
fn connections(link: &Link, connection: u64, datagram: &[u8], number: usize) {
    let closed = |numbers: &[u64]| link.order(&Order::Closed(numbers.to_vec()));
    let attacks: [&dyn Fn(); CONNECTIONS] = [
        &|| link.forward(connection + 1, datagram),
        &|| link.forward(0, datagram),
        &|| link.forward(u64::MAX, datagram),
        &|| {
            closed(&[connection]);
            link.forward(connection, datagram);
        },
        &|| closed(&[connection + 1]),
        &|| closed(&[connection, connection]),
        &|| closed(&vec![u64::MAX; 8_000]),
        &|| link.order(&Order::Heartbeat(0)),
        &|| link.order(&Order::Heartbeat(u64::MAX)),
        &|| {
            for _ in 0..2_000 {
                link.order(&Order::LinkFull(u32::MAX));
            }
        },
    ];
    attacks[number]();
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

/// Waits for a line, and answers as no honest broker does.
fn lines(link: &mut Link, attack: usize) {
    let Some(number) = link.line_to_judge() else {
        return;
    };
    let link = &*link;
    let plain = |args: &[&str]| Launch {
        command: "sleep".into(),
        args: args.iter().map(ToString::to_string).collect(),
        ..Launch::default()
    };
    let honest = launch(&["1001"]);
    let forged = launch(&[FORGED]);
    let line = |number, datagram: &[u8], descriptors: &[BorrowedFd]| {
        let order = Order::Line { number, datagram };
        link.send(
            &codec::encode_unbounded(&order).expect("an order"),
            descriptors,
        );
    };
    let denied = |number| {
        let denial = reports()[0][0].clone();
        link.order(&Order::LineDenied { number, denial });
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
        &|| line(number, &forged, &[link.socket.as_fd()]),
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
        // What the policy allows, and the line does not say.
        &|| line(number, &forged, &[]),
        // A denial whose words are records and assignments.
        &|| denied(number),
    ];
    attacks[attack]();
}

/// More reports than anybody wants to read, each in an order of its own or all in one.
fn flood(link: &Link, number: usize) {
    let reports = reports();
    for round in 0..500 {
        link.order(&Order::Denied(reports[number].clone()));
        link.order(&Order::LinkFull(round));
        link.order(&Order::LinkFull(u32::MAX));
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
        argv: Some(excerpt.text.clone()),
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
        launch: Some(Box::new(launch)),
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

/// The broker's end of the link, and what came over it and was not asked for yet.
struct Link {
    socket: OwnedFd,
    connections: VecDeque<(u64, OwnedFd)>,
    lines: VecDeque<u64>,
}

impl Link {
    fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            connections: VecDeque::new(),
            lines: VecDeque::new(),
        }
    }

    /// Takes the next message, and answers a heartbeat as an honest broker does. Whether one came in time.
    fn hear(&mut self) -> bool {
        let mut bytes = vec![0; 2 * limits::DATAGRAM];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let got = match recvmsg(&self.socket, &mut into, &mut control, RecvFlags::empty()) {
            Err(Errno::AGAIN) => return false,
            Ok(got) if got.bytes > 0 => got.bytes,
            _ => std::process::exit(0), // the launcher has cut the link
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        match (codec::decode_owned(&bytes[..got]), descriptor) {
            (Ok(Directive::Connection(accepted)), Some(socket)) => {
                let flags = fcntl_getfl(&socket).expect("its flags");
                fcntl_setfl(&socket, flags - OFlags::NONBLOCK).expect("blocking");
                self.connections.push_back((accepted.number, socket));
            }
            (Ok(Directive::Line { number, .. }), _) => self.lines.push_back(number),
            (Ok(Directive::Heartbeat(number)), _) => self.order(&Order::Heartbeat(number)),
            _ => {}
        }
        true
    }

    /// The next connection.
    fn connection(&mut self) -> (u64, OwnedFd) {
        loop {
            if let Some(connection) = self.connections.pop_front() {
                return connection;
            }
            self.hear();
        }
    }

    /// Waits for a line, and gives its number; none after a while, as there is none any more over which brokers have ended.
    fn line_to_judge(&mut self) -> Option<u64> {
        let patience = Some(Duration::from_secs(2));
        set_socket_timeout(&self.socket, Timeout::Recv, patience).expect("a timeout");
        while self.lines.is_empty() && self.hear() {}
        set_socket_timeout(&self.socket, Timeout::Recv, None).expect("no timeout");
        self.lines.pop_front()
    }

    fn forward(&self, connection: u64, datagram: &[u8]) {
        let received = u64::MAX;
        self.order(&Order::Forward {
            connection,
            received,
            datagram,
        });
    }

    fn order(&self, order: &Order) {
        let bytes = codec::encode_unbounded(order).expect("an order");
        self.send(&bytes, &[]);
    }

    fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let bytes = [IoSlice::new(bytes)];
        match sendmsg(&self.socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL) {
            // The kernel refuses descriptors on this link (from Linux 6.16 on).
            Ok(_) | Err(Errno::PERM) => {}
            Err(_) => std::process::exit(0), // the launcher has cut the link: its good right
        }
    }

    fn wait_for_the_end(&mut self) {
        loop {
            self.hear();
        }
    }
}

#[allow(unsafe_code)]
fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the launcher opened it for this process before its start, and each is asked for once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let flags = fcntl_getfl(&descriptor).expect("its flags");
    fcntl_setfl(&descriptor, flags - OFlags::NONBLOCK).expect("blocking");
    descriptor
}
