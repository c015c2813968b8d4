//! Random and mutated datagrams through codec and decision, the same ones in every run: no panic, no growth.
//!
//! A million by default; `PORTCULLIS_FUZZ=10000000` for ten, `PORTCULLIS_FUZZ_SEED` for others.

use portcullis_policy::{Decision, Peer, Policy, decide};
use portcullis_tests::{live, peak};
use portcullis_wire::codec::{self, decode_request};
use portcullis_wire::{
    AgentName, Attach, Body, Launch, Order, PolicyText, Request, Response, Target,
};

const POLICY: &str = include_str!("fuzz.toml");
pub(crate) const NETWORK: &str = "7f3f3b5a-6a0c-4a4c-8a53-0d5b1a7a9d11";

/// xorshift64*: enough to shuffle bytes.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end.max(1)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Texts that stand near a decision: what rules want, and what attackers send instead.
pub(crate) fn words() -> Vec<String> {
    let mut words: Vec<String> = [
        "", "-", "--", "-v", "--privileged", "/:/host", "..", "../..", "/", "+5", "007", "5", "300",
        "65536", "::1", "0::1", "10.0.0.1", "10.0.0.01", "fe80::1%eth0", "\u{661}", "\u{2028}", "a\nb",
        "\u{202e}x", "A=b", "LD_PRELOAD=/x.so", "PATH=/x", "DEBUG=1", "--dhcp-script=/bin/sh",
        "--no-hosts", "--log-queries", "--conf-file=/dev/null", "--conf-file=/etc/passwd",
        "--dhcp-range=set:subnet-7f3f3b5a-6a0c-4a4c-8a53-0d5b1a7a9d11,10.0.0.0,static,255.255.255.0,86400s",
        "--server=10.0.0.1#53", "--server=/example.org/10.0.0.1", "--domain=example.org",
        "--txt-record=a,b", "--dhcp-lease-max=256", "-m", "syslog", "-x", "blue",
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    for network in [
        NETWORK,
        "7F3F3B5A-6a0c-4a4c-8a53-0d5b1a7a9d11",
        "7f3f3b5a-6a0c-4a4c-8a53-0d5b1a7a9d12",
    ] {
        words.push(format!("--pid-file=/var/lib/neutron/dhcp/{network}/pid"));
        words.push(format!(
            "--dhcp-leasefile=/var/lib/neutron/dhcp/{network}/leases"
        ));
        words.push(format!("qdhcp-{network}"));
    }
    words
}

fn good() -> Launch {
    let state = format!("/var/lib/neutron/dhcp/{NETWORK}");
    Launch {
        command: "dnsmasq".into(),
        args: vec![
            "--no-hosts".into(),
            String::new(),
            format!("--pid-file={state}/pid"),
            format!("--dhcp-leasefile={state}/leases"),
            "--conf-file=/dev/null".into(),
            format!("--dhcp-range=set:subnet-{NETWORK},10.0.0.0,static,255.255.255.0,86400s"),
            "--dhcp-lease-max=256".into(),
            "-m".into(),
            "syslog".into(),
        ],
        netns: Some(format!("qdhcp-{NETWORK}")),
        env: vec!["DEBUG=1".into()],
        ..Launch::default()
    }
}

/// A request that is well formed and near a rule.
fn request(random: &mut Random, words: &[String]) -> Request {
    let mut launch = good();
    for _ in 0..random.below(4) {
        match random.below(7) {
            0 => launch.args.push(random.pick(words).clone()),
            1 => {
                let at = random.below(launch.args.len());
                launch.args[at] = random.pick(words).clone();
            }
            2 => {
                let at = random.below(launch.args.len());
                if launch.args.len() > 1 {
                    launch.args.remove(at);
                }
            }
            3 => launch.netns = Some(random.pick(words).clone()).filter(|w| w != "-x"),
            4 => launch.env.push(random.pick(words).clone()),
            5 => launch.image = Some(random.pick(words).clone()),
            _ => random.pick(words).clone_into(&mut launch.command),
        }
    }
    launch.dry_run = random.below(8) == 0;
    if random.below(16) == 0 {
        launch.attach = Attach::Streams;
    }
    let text = || "x".to_owned();
    let body = match random.below(24) {
        0 => Body::Ping,
        1 => Body::Metrics,
        2 => Body::Wait {
            target: Target::Name(text()),
        },
        3 => Body::Stop {
            target: Target::Process {
                pid: 7,
                start_time: 1 << 40,
            },
            timeout: Some(9),
        },
        4 => Body::List {
            all: true,
            after: Some(text()),
        },
        5 => Body::Signal {
            target: Target::Service {
                command: text(),
                netns: Some(text()),
            },
            signal: 15,
        },
        _ => Body::Launch(launch),
    };
    Request {
        id: random.next(),
        body,
    }
}

/// What an attacker's tool does to bytes.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        match random.below(9) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = random.byte(),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            3 => bytes.insert(at, random.byte()),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => drop(bytes.splice(at..at, *b"\xff\xff\xff\xff\x0f")),
            6 => drop(bytes.splice(at..at, *b"\x80\x80\x00")),
            7 => bytes.extend_from_within(at..),
            _ => bytes.extend((0..random.below(64)).map(|_| 0)),
        }
    }
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn a_million_random_and_mutated_datagrams_find_no_panic_and_no_growth() {
    let file = PolicyText {
        path: "fuzz.toml".into(),
        text: POLICY.into(),
    };
    let agent = AgentName::new("dhcp").unwrap();
    let policy = Policy::load(&agent, &[file]).unwrap_or_else(|problems| panic!("{problems}"));
    let peer = Peer::Process {
        uid: 0,
        gid: 0,
        pid: 1,
    };
    let words = words();
    let mut random = Random(number("PORTCULLIS_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15));
    let rounds = number("PORTCULLIS_FUZZ", 1_000_000);
    let (mut decoded, mut allowed, mut refused, mut most) = (0u64, 0u64, 0u64, 0);
    let start = live();
    for round in 0..rounds {
        let datagram = match random.below(4) {
            0 => {
                let mut bytes = b"PC\x01".to_vec();
                bytes.extend((0..random.below(48)).map(|_| random.byte()));
                bytes
            }
            1 => codec::encode(&request(&mut random, &words)).unwrap(),
            _ => {
                let mut bytes = codec::encode(&request(&mut random, &words)).unwrap();
                mutate(&mut random, &mut bytes);
                bytes
            }
        };
        let ((), held) = peak(|| match decode_request(&datagram) {
            Ok(request) => {
                decoded += 1;
                assert_eq!(codec::encode(&request).unwrap(), datagram, "round {round}");
                if let Body::Launch(launch) = &request.body {
                    match decide(&policy, &peer, launch) {
                        Decision::Allow(plan) => {
                            allowed += 1;
                            assert_eq!(plan.name(), format!("neutron-dnsmasq-qdhcp-{NETWORK}"));
                        }
                        Decision::Deny(denial) => {
                            refused += 1;
                            assert!(denial.message.len() < 4096 && !denial.message.contains('\n'));
                        }
                    }
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        });
        // What the other two ends read: the launcher from a broker, a client from anybody who took the socket.
        let ((), more) = peak(|| {
            if let Ok(order) = codec::decode::<Order>(&datagram) {
                assert_eq!(codec::encode_unbounded(&order).unwrap(), datagram);
            }
            if let Ok(response) = codec::decode::<Response>(&datagram) {
                assert_eq!(codec::encode_unbounded(&response).unwrap(), datagram);
            }
        });
        let held = held.max(more);
        most = most.max(held - datagram.len().cast_signed() * 4);
    }
    let growth = live() - start;
    println!(
        "{rounds} datagrams: {decoded} decoded, {allowed} allowed, {refused} denied; {most} bytes at the most"
    );
    assert!(
        most < 64 * 1024,
        "{most} bytes beside four times the datagram"
    );
    assert_eq!(growth, 0, "every round gives back what it took");
    let tenth = rounds / 10;
    assert!(
        decoded > tenth && refused > tenth,
        "the generator reaches the decision"
    );
    assert!(allowed > rounds / 100, "some of it is allowed: {allowed}");
}
