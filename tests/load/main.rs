//! What an agent does all day, and at its worst: runs in an agent's container on a booted machine, speaks the protocol, and
//! prints one JSON object at the end.
//!
//! Usage:
//!
//!     load ping SOCKET COUNT              one ping after the other, each on a connection of its own
//!     load launch SOCKET FIRST COUNT      launches `sleep FIRST`, `sleep FIRST+1` and so on, one after the other
//!     load pairs SOCKET FILE              asks for `pair` in every combination, as long as that file exists
//!     load flood SOCKET FILE              sends whatever it can as fast as it can, as long as that file exists
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use portcullis_tests::{Client, launch, launched};
use portcullis_wire::{Body, Reply};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Connections that flood at once.
const FLOODERS: usize = 8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["ping", socket, count] => ping(Path::new(socket), number(count)),
        ["launch", socket, first, count] => {
            launches(Path::new(socket), number(first), number(count));
        }
        ["pairs", socket, file] => pairs(Path::new(socket), Path::new(file)),
        ["flood", socket, file] => flood(Path::new(socket), Path::new(file)),
        _ => panic!("usage: see the source"),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

/// Prints quantiles of some times, in microseconds.
fn print(mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_micros();
    println!(
        r#"{{"count": {}, "p50_us": {}, "p99_us": {}, "max_us": {}}}"#,
        times.len(),
        at(50),
        at(99),
        at(100)
    );
}

fn ping(socket: &Path, count: usize) {
    let one = |_| {
        let start = Instant::now();
        let mut client = Client::connect(socket).expect("a connection");
        assert!(client.is_served());
        start.elapsed()
    };
    print((0..count).map(one).collect());
}

fn launches(socket: &Path, first: usize, count: usize) {
    let one = |n: usize| {
        let start = Instant::now();
        let mut client = Client::connect(socket).expect("a connection");
        let answer = client.launch_patiently(&launch("sleep", &[&n.to_string()]));
        assert!(!launched(answer).reused);
        start.elapsed()
    };
    print((first..first + count).map(one).collect());
}

/// What became of one request; the broker answers dry runs, the launcher the others. A broker that drains takes no more
/// from a connection, and what was sent before that it answers.
fn pair(socket: &Path, one: &str, two: &str, dry_run: bool) -> String {
    let mut request = launch("pair", &[&format!("--one={one}"), &format!("--two={two}")]);
    request.dry_run = dry_run;
    let Ok(mut client) = Client::connect(socket) else {
        return "not sent".to_owned();
    };
    let Ok(id) = client.send(Body::Launch(request)) else {
        return "not sent".to_owned();
    };
    let Ok(Some(response)) = client.receive() else {
        return "not answered".to_owned();
    };
    assert_eq!(response.id, id);
    match response.reply {
        Reply::Explained { allowed: true, .. } => format!("{one}{two} allowed"),
        Reply::Launched { name, .. } => format!("{one}{two} launched as {name}"),
        Reply::Denied { .. } | Reply::Explained { .. } => "denied".to_owned(),
        Reply::Busy { .. } => "busy".to_owned(),
        other => panic!("{other:?}"),
    }
}

/// Counts what became of each combination.
fn pairs(socket: &Path, file: &Path) {
    let mut counts = BTreeMap::new();
    let mut round = 0;
    while file.exists() {
        round += 1;
        for (one, two) in [("a", "a"), ("b", "b"), ("a", "b"), ("b", "a")] {
            *counts
                .entry(pair(socket, one, two, round % 8 != 0))
                .or_insert(0) += 1;
        }
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(key, n)| format!("{key:?}: {n}"))
        .collect();
    println!("{{{}}}", counts.join(", "));
}

/// From half of the connections as many pings and requests that are denied as are answered, from the others noise, which
/// costs a connection each.
fn flood(socket: &Path, file: &Path) {
    let sent: usize = thread::scope(|scope| {
        let flooders: Vec<_> = (0..FLOODERS)
            .map(|n| scope.spawn(move || flood_until(socket, file, n % 2 == 0)))
            .collect();
        flooders.into_iter().map(|f| f.join().expect("sent")).sum()
    });
    println!(r#"{{"sent": {sent}}}"#);
}

fn flood_until(socket: &Path, file: &Path, noise: bool) -> usize {
    let mut sent = 0;
    while file.exists() {
        let Ok(mut client) = Client::connect(socket) else {
            continue;
        };
        if noise {
            sent += usize::from(client.send_bytes(&[0xff; 1024]).is_ok());
            continue;
        }
        for round in 0..1000 {
            let body = match round % 2 {
                0 => Body::Ping,
                _ => Body::Launch(launch("sleep", &["no number"])),
            };
            // The broker's limits may end a connection.
            if client.send(body).is_err() || !matches!(client.receive(), Ok(Some(_))) {
                break;
            }
            sent += 1;
        }
    }
    sent
}
