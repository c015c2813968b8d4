//! Random and mutated lines of a spool through the reader and the decision, the same ones in every run: no panic, no
//! growth.
//!
//! 200,000 by default; `PORTCULLIS_FUZZ=10000000` for ten million, `PORTCULLIS_FUZZ_SEED` for others.

use crate::fuzz::{NETWORK, Random, number};
use portcullis_policy::{Decision, Peer, Policy, decide};
use portcullis_tests::{live, peak};
use portcullis_wire::limits::{ARGUMENTS, LINE};
use portcullis_wire::line::{Line, LineError, read, write};
use portcullis_wire::{AgentName, Launch, PolicyText, Reason};

/// The preset, whose lines may come from a spool here.
fn policy() -> Policy {
    let preset = include_str!("../../presets/neutron-dhcp.toml");
    // The comments that the preset has for those who use spools.
    let text = preset.replace("\n#[[spool]]", "\n[[spool]]");
    let text = ["command", "dir", "lock", "spool"]
        .iter()
        .fold(text, |text, key| {
            text.replace(&format!("\n#{key} ="), &format!("\n{key} ="))
        });
    let file = PolicyText {
        path: "neutron-dhcp.toml".into(),
        text,
    };
    let agent = AgentName::new("dhcp").unwrap();
    Policy::load(&agent, &[file]).unwrap_or_else(|problems| panic!("{problems}"))
}

/// What Neutron asks for.
fn good() -> Vec<String> {
    let state = format!("/var/lib/neutron/dhcp/{NETWORK}");
    [
        "--no-hosts".to_owned(),
        "--no-resolv".into(),
        format!("--pid-file={state}/pid"),
        format!("--dhcp-hostsfile={state}/host"),
        format!("--dhcp-leasefile={state}/leases"),
        "--dhcp-match=set:ipxe,175".into(),
        format!("--dhcp-range=set:subnet-{NETWORK},10.0.0.0,static,255.255.255.0,86400s"),
        "--dhcp-option-force=option:mtu,1450".into(),
        "--dhcp-lease-max=256".into(),
        "--conf-file=/dev/null".into(),
        "--bridge-interface=ns-1,tap*".into(),
        "--txt-record=a b,it's \"c\" \\".into(),
        String::new(),
    ]
    .to_vec()
}

/// Words of all kinds: what the rules want, and what attackers send instead.
fn line(random: &mut Random, words: &[String]) -> Vec<u8> {
    let mut args = good();
    for _ in 0..random.below(4) {
        let at = random.below(args.len());
        match random.below(3) {
            0 => args.insert(at, random.pick(words).clone()),
            1 => args[at] = random.pick(words).clone(),
            _ => drop(args.remove(at)),
        }
    }
    let netns = format!("qdhcp-{NETWORK}");
    let netns = match random.below(8) {
        0 => None,
        1 => Some(random.pick(words).as_str()),
        _ => Some(netns.as_str()),
    };
    match write(netns, &args) {
        Ok(line) => line.into_bytes(),
        // A word with a line break, or no name. Old wrappers write what they are given.
        Err(_) => format!("{} {}", netns.unwrap_or(""), args.join(" ")).into_bytes(),
    }
}

/// What a hostile agent, or a broken wrapper, does to a line.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    const MARKS: &[u8] = b" \t'\"\\\0\n\r\xff\xc3*$";
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = random.byte(),
            2 if at < bytes.len() => bytes[at] = *random.pick(MARKS),
            3 => bytes.insert(at, *random.pick(MARKS)),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => bytes.extend_from_within(at..),
            6 => drop(bytes.splice(at..at, b" ".repeat(random.below(64)))),
            _ => drop(bytes.drain(..at)),
        }
    }
    match random.below(4096) {
        0 => drop(bytes.splice(0..0, b"a ".repeat(ARGUMENTS - 8))),
        1 => bytes.resize(LINE - 8 + random.below(16), b'x'),
        _ => {}
    }
}

#[test]
fn random_and_mutated_lines_find_no_panic_and_no_growth() {
    let policy = policy();
    let dir = policy.spools()[0].dir.clone();
    let peer = Peer::Spool { dir };
    let words = crate::fuzz::words();
    let mut random = Random(number("PORTCULLIS_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15));
    let rounds = number("PORTCULLIS_FUZZ", 200_000);
    let (mut whole, mut allowed, mut refused, mut large, mut most) = (0u64, 0u64, 0u64, 0u64, 0);
    let start = live();
    for round in 0..rounds {
        let text = match random.below(4) {
            0 => (0..random.below(96)).map(|_| random.byte()).collect(),
            1 => line(&mut random, &words),
            _ => {
                let mut bytes = line(&mut random, &words);
                mutate(&mut random, &mut bytes);
                bytes
            }
        };
        let (result, held) = peak(|| read(&text));
        // A word of one letter and its blank costs a string, and the list of them grows by doubling.
        let room = 1024 + text.len().cast_signed() * 40;
        assert!(
            held < room,
            "{held} bytes for {} in round {round}",
            text.len()
        );
        let Line { netns, args } = match result {
            Ok(line) => line,
            Err(error) => {
                assert!(!error.to_string().contains('\n'));
                large += u64::from(error.reason() == Reason::TooLarge);
                continue;
            }
        };
        whole += 1;
        match write(netns.as_deref(), &args) {
            Ok(again) => {
                let again = read(again.as_bytes()).unwrap();
                assert_eq!(
                    (&again.netns, &again.args),
                    (&netns, &args),
                    "round {round}"
                );
            }
            // Quotes take more room than backslashes, or than the blank before a name that is none.
            Err(error) => assert!(
                error == LineError::TooLong && text.len() > LINE / 8,
                "{error}"
            ),
        }
        let launch = Launch {
            command: "dnsmasq".into(),
            args,
            netns,
            ..Launch::default()
        };
        let ((), held) = peak(|| match decide(&policy, &peer, &launch) {
            Decision::Allow(plan) => {
                allowed += 1;
                assert_eq!(plan.name(), format!("dhcp-dnsmasq-{NETWORK}"));
            }
            Decision::Deny(denial) => {
                refused += 1;
                assert!(denial.message.len() < 4096 && !denial.message.contains('\n'));
            }
        });
        most = most.max(held - text.len().cast_signed() * 4);
    }
    let growth = live() - start;
    println!(
        "{rounds} lines: {whole} read, {allowed} allowed, {refused} denied, {large} too large; {most} bytes at the most"
    );
    assert!(most < 64 * 1024, "{most} bytes beside four times the line");
    assert_eq!(growth, 0, "every round gives back what it took");
    assert!(
        whole > rounds / 3 && refused > rounds / 10,
        "the generator reaches the decision"
    );
    assert!(allowed > rounds / 100, "some of it is allowed: {allowed}");
    assert!(large > rounds / 10_000, "some of it is too large: {large}");
}
