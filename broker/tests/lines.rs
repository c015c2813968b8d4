//! Lines of spools: read, judged and handed back, one at a time.

use crate::harness::{Broker, POLICY, Setup};
use portcullis_wire::{
    Body, DenialCount, Directive, Launch, Order, Reason, Request, codec, limits,
};

const SPOOL: &str = r#"
[[spool]]
command = "nap"
dir = "/spool"

[[launch]]
rule = "nap"
command = "nap"
spool = true
image = "localhost/busybox:1"
netns = "{net:word}"
program = ["/bin/sleep"]
args = [{ min = 1, max = 900, pattern = "{:word}" }]

[launch.container]
name = "test-nap-{netns}"
user = "65534:65534"
"#;

fn setup() -> Setup {
    Setup::new().policy(&format!("{POLICY}{SPOOL}"))
}

/// What came of a line.
#[derive(Debug)]
enum Judged {
    Allowed(Launch),
    Denied(Box<DenialCount>),
}

fn tell(broker: &Broker, number: u64, dir: &str, command: &str, text: &[u8]) {
    let (dir, command, text) = (dir.to_owned(), command.to_owned(), text.to_owned());
    broker.tell(Directive::Line {
        number,
        dir,
        command,
        text,
    });
}

/// The next order that is about a line.
fn judged(broker: &Broker, number: u64) -> Judged {
    loop {
        let heard = broker.heard();
        assert!(
            !heard.bytes.is_empty(),
            "the broker ended: {}",
            broker.log()
        );
        let (order, of) = match heard.order() {
            Order::Line { number, datagram } => {
                let Request {
                    body: Body::Launch(launch),
                    ..
                } = codec::decode_request(datagram).unwrap()
                else {
                    panic!("a line is a launch")
                };
                (Judged::Allowed(launch), number)
            }
            Order::LineDenied { number, denial } => (Judged::Denied(Box::new(denial)), number),
            _ => continue,
        };
        assert_eq!(of, number);
        assert!(heard.descriptors.is_empty());
        return order;
    }
}

fn line(broker: &Broker, text: &[u8]) -> Judged {
    tell(broker, 7, "/spool", "nap", text);
    judged(broker, 7)
}

#[track_caller]
fn denied(judged: Judged, reason: Reason, says: &str) -> DenialCount {
    let Judged::Denied(denial) = judged else {
        panic!("{judged:?}")
    };
    assert_eq!(denial.reason, reason, "{denial:?}");
    assert!(denial.message.contains(says), "{denial:?}");
    assert_eq!(
        (denial.count, denial.uid, denial.gid, denial.pid),
        (1, 0, 0, 0)
    );
    *denial
}

#[test]
fn a_line_that_is_allowed_comes_back_as_the_request_that_it_is() {
    let broker = setup().start();
    let Judged::Allowed(launch) = line(&broker, br"qdhcp-1 a 'b' c\d") else {
        panic!("denied")
    };
    let expected = Launch {
        command: "nap".to_owned(),
        netns: Some("qdhcp-1".to_owned()),
        args: ["a", "b", "cd"].map(str::to_owned).to_vec(),
        ..Launch::default()
    };
    assert_eq!(launch, expected);
}

#[test]
fn a_line_that_is_none_or_is_not_allowed_is_denied_with_what_it_said() {
    let broker = setup().start();
    let denial = denied(line(&broker, b"ns 'a"), Reason::Malformed, "quote");
    assert_eq!(denial.launch.unwrap().args.unwrap().text, "ns 'a");
    denied(line(&broker, b"ns \xff"), Reason::Malformed, "UTF-8");
    denied(line(&broker, b"ns \0"), Reason::Malformed, "NUL");
    denied(line(&broker, b""), Reason::Malformed, "empty");
    let denial = denied(line(&broker, b"ns a/b"), Reason::Argument, "not allowed");
    assert_eq!(denial.rule.as_deref(), Some("nap"));
    assert_eq!(denial.launch.unwrap().netns.unwrap().text, "ns");
    denied(line(&broker, b" a"), Reason::Netns, "has none");
    let wide = [b"ns ".to_vec(), b"a ".repeat(1025)].concat();
    denied(line(&broker, &wide), Reason::TooLarge, "1024");
}

#[test]
fn only_the_spools_of_the_policy_and_the_rules_that_take_lines_count() {
    let broker = setup().start();
    for (dir, command, text, reason) in [
        ("/other", "nap", "ns a", Reason::Peer),
        ("/spool", "sleep", " 5", Reason::Peer),
    ] {
        tell(&broker, 9, dir, command, text.as_bytes());
        denied(judged(&broker, 9), reason, "");
    }
    let without = Setup::new().start();
    tell(&without, 9, "/spool", "sleep", b" 5");
    denied(judged(&without, 9), Reason::Peer, "");
}

#[test]
fn the_longest_line_is_read_and_what_is_larger_as_a_request_is_denied() {
    let broker = setup().start();
    // 600 words of 100 bytes.
    let mut words = "ns".to_owned();
    for _ in 0..600 {
        words.push(' ');
        words.push_str(&"x".repeat(100));
    }
    assert!(matches!(line(&broker, words.as_bytes()), Judged::Allowed(l) if l.args.len() == 600));
    let longest = [b"ns ".to_vec(), b"x".repeat(limits::LINE - 3)].concat();
    denied(line(&broker, &longest), Reason::TooLarge, "as a request");
    let longer = [b"ns ".to_vec(), b"x".repeat(limits::LINE - 2)].concat();
    denied(line(&broker, &longer), Reason::TooLarge, "longer");
    // What the launcher is told of it is short all the same: an order has to fit.
    let open = [b"'".to_vec(), b"\xc3\xa4".repeat(limits::LINE / 2 - 1)].concat();
    let denial = denied(line(&broker, &open), Reason::Malformed, "quote");
    let told = denial.launch.unwrap().args.unwrap();
    assert_eq!((told.text.len(), told.bytes as usize), (767, open.len()));
    let quoted = "n".to_owned() + &" ''".repeat(900);
    denied(line(&broker, quoted.as_bytes()), Reason::Argument, "");
}

#[test]
fn what_is_no_directive_is_passed_over_and_the_next_line_judged() {
    let broker = setup().start();
    let bytes = codec::encode_unbounded(&Directive::Line {
        number: 1,
        dir: "d".repeat(100_000),
        command: "nap".to_owned(),
        text: b"ns a".to_vec(),
    });
    broker.tell_bytes(&bytes.unwrap());
    broker.tell_bytes(b"PC\x01\x01");
    assert!(matches!(line(&broker, b"ns a"), Judged::Allowed(_)));
}

#[test]
fn a_broker_that_drains_answers_the_line_that_it_had() {
    let mut broker = setup().start();
    tell(&broker, 3, "/spool", "nap", b"ns a");
    broker.tell(Directive::Drain);
    assert!(matches!(judged(&broker, 3), Judged::Allowed(_)));
    assert!(broker.ended().success(), "{}", broker.log());
}

#[test]
fn without_a_policy_no_line_is_allowed() {
    let broker = Setup::new().no_policy().start();
    denied(line(&broker, b"ns a"), Reason::PolicyUnavailable, "");
}
