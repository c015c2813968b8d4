//! A ping and a denied request, on a kept connection and on new ones, against a bare blocking echo.

use crate::launches::RULES;
use crate::report::Report;
use portcullis_tests::{Host, launch};
use portcullis_wire::{Body, Request, codec};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind,
    connect, listen, recv, send, socket_with,
};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

const KEPT: usize = 5_000;
const NEW: usize = 2_000;

fn socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket")
}

fn connected(path: &Path) -> OwnedFd {
    let socket = socket();
    connect(&socket, &SocketAddrUnix::new(path).expect("an address")).expect("connect");
    socket
}

/// Serves one connection after the other, and sends back what comes: nothing can be quicker.
pub fn echo(path: &Path) -> ! {
    let listener = socket();
    bind(&listener, &SocketAddrUnix::new(path).expect("an address")).expect("bind");
    listen(&listener, 128).expect("listen");
    let mut buffer = vec![0; 65_536];
    loop {
        let client = accept(&listener).expect("accept");
        while let Ok((length, _)) = recv(&client, &mut buffer[..], RecvFlags::empty()) {
            if length == 0 || send(&client, &buffer[..length], SendFlags::NOSIGNAL).is_err() {
                break;
            }
        }
    }
}

struct Echo(Child);

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(socket: &OwnedFd, datagram: &[u8], buffer: &mut [u8]) -> f64 {
    let begin = Instant::now();
    send(socket, datagram, SendFlags::NOSIGNAL).expect("send");
    let (length, _) = recv(socket, &mut *buffer, RecvFlags::empty()).expect("recv");
    assert!(length > 0, "an answer");
    begin.elapsed().as_secs_f64() * 1e6
}

fn ask_anew(path: &Path, datagram: &[u8], buffer: &mut [u8]) -> f64 {
    let begin = Instant::now();
    let socket = connected(path);
    ask(&socket, datagram, buffer);
    drop(socket);
    begin.elapsed().as_secs_f64() * 1e6
}

/// Measures.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let agent = host.agent("bench", RULES);
    let service = agent.start();
    assert!(service.client().is_served());
    let echo_path = host.path().join("echo");
    let myself = std::env::current_exe().expect("a path");
    let child = Command::new(myself)
        .arg("echo")
        .arg(&echo_path)
        .spawn()
        .expect("the echo");
    let _echo = Echo(child);
    portcullis_tests::until("the echo", || echo_path.exists().then_some(()));
    portcullis_tests::until("the echo", || {
        connect(socket(), &SocketAddrUnix::new(&echo_path).ok()?).ok()
    });
    let encode = |body| codec::encode(&Request { id: 1, body }).expect("a request");
    let ping = encode(Body::Ping);
    let refused = encode(Body::Launch(launch("sleep", &["not-a-number"])));
    let mut buffer = vec![0; 65_536];
    let ours = agent.socket();
    let (kept, kept_echo) = (connected(&ours), connected(&echo_path));
    let mut samples = [const { Vec::new() }; 6];
    for round in 0..KEPT + 100 {
        let all = [
            ask(&kept_echo, &ping, &mut buffer),
            ask(&kept, &ping, &mut buffer),
            ask(&kept, &refused, &mut buffer),
        ];
        if round >= 100 {
            all.iter().zip(&mut samples).for_each(|(s, to)| to.push(*s));
        }
    }
    drop(kept_echo);
    for _ in 0..NEW {
        samples[3].push(ask_anew(&echo_path, &ping, &mut buffer));
        samples[4].push(ask_anew(&ours, &ping, &mut buffer));
        samples[5].push(ask_anew(&ours, &refused, &mut buffer));
    }
    let names = [
        "kept connection: bare echo",
        "kept connection: ping",
        "kept connection: denied launch",
        "new connection: bare echo",
        "new connection: ping",
        "new connection: denied launch",
    ];
    let mut base = 1.0;
    for (at, name) in names.iter().enumerate() {
        let row = report.add(name, "us", &samples[at]);
        if at % 3 == 0 {
            base = row.median;
        } else {
            let most = if at < 3 { 2.0 } else { 4.0 };
            let factor = row.median / base;
            row.goal(
                &format!("{factor:.2} of the echo, at most {most}"),
                factor <= most,
            );
        }
    }
}
