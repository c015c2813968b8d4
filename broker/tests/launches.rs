//! What becomes of requests: answered here, or handed to the launcher.

use crate::harness::{Broker, LONG, POLICY, Setup, sleep};
use portcullis_wire::{
    Attach, Body, DenialCount, Launch, Order, Reason, Reply, Request, Response, Target, codec,
};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::time::Instant;

fn reason(reply: Reply) -> Reason {
    match reply {
        Reply::Denied { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// The next order that tells of denials.
fn denials(broker: &Broker) -> Vec<DenialCount> {
    loop {
        let heard = broker.heard();
        assert!(!heard.bytes.is_empty());
        if let Order::Denied(counts) = heard.order() {
            return counts;
        }
    }
}

#[test]
fn a_ping_tells_agent_policy_and_sandbox() {
    let broker = Broker::start();
    let pong = broker.connect().ping();
    assert_eq!((pong.agent.as_str(), pong.generation.len()), ("test", 16));
    assert_eq!(
        pong.layers,
        [
            "namespaces",
            "user",
            "capabilities",
            "no-new-privileges",
            "landlock",
            "seccomp"
        ]
    );
    assert_eq!(
        (&pong.layers, pong.landlock_abi),
        (&broker.layers, broker.landlock_abi)
    );
    assert!(pong.landlock_abi >= 1);
    assert!(["pidfd", "start-time"].contains(&pong.peer_identification.as_str()));
}

#[test]
fn allowed_launch_is_forwarded_with_its_connection() {
    let broker = Broker::start();
    broker.connect().ping();
    let (mut client, socket) = broker.connect_kept();
    let id = client.request(Body::Launch(sleep("77")));
    let (datagram, connection) = broker.forwarded();
    assert_eq!(
        datagram,
        codec::encode(&Request {
            id,
            body: Body::Launch(sleep("77"))
        })
        .unwrap()
    );
    assert_eq!(connection, 2);
    let answer = Response {
        id,
        reply: Reply::Busy { retry_after: 5 },
    };
    send(
        &socket,
        &codec::encode(&answer).unwrap(),
        SendFlags::empty(),
    )
    .unwrap();
    assert_eq!(client.reply(), Some(answer));
    client.ping();
}

#[test]
fn the_largest_allowed_launch_goes_to_the_launcher_whole() {
    let policy = POLICY
        .replace(
            "max = 1, pattern = \"{seconds:int}\"",
            "max = 1000, pattern = \"{:text}\"",
        )
        .replace("{seconds}", "x");
    let broker = Setup::new().policy(&policy).start();
    let mut client = broker.connect();
    let launch = Launch {
        args: vec!["x".repeat(65_450)],
        ..sleep("1")
    };
    client.request(Body::Launch(launch.clone()));
    let (datagram, _) = broker.forwarded();
    assert_eq!(
        codec::decode_request(&datagram).unwrap().body,
        Body::Launch(launch)
    );
}

#[test]
fn a_denied_launch_is_answered_here_and_told_to_the_launcher() {
    let broker = Broker::start();
    let mut client = broker.connect();
    let mut launch = sleep("5");
    launch.args.push("--help".to_owned());
    match client.ask(Body::Launch(launch)) {
        Reply::Denied {
            reason,
            rule,
            message,
        } => {
            assert_eq!((reason, rule.as_deref()), (Reason::Argument, Some("sleep")));
            assert!(message.contains("--help"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let told = denials(&broker);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].reason, told[0].rule.as_deref(), told[0].count),
        (Reason::Argument, Some("sleep"), 1)
    );
    assert_eq!(
        (told[0].uid, told[0].gid, told[0].pid),
        (0, 0, i32::try_from(std::process::id()).unwrap())
    );
    let asked = told[0].launch.as_ref().unwrap();
    assert_eq!(asked.command.text, "sleep");
    assert_eq!(asked.args.as_ref().unwrap().text, "5\0--help");
    assert_eq!((&asked.netns, &asked.image), (&None, &None));
}

#[test]
fn a_denial_of_what_is_no_launch_is_told_without_one() {
    let broker = Broker::start();
    let mut client = broker.connect();
    assert_eq!(reason(client.ask(Body::Metrics)), Reason::Unsupported);
    assert_eq!(denials(&broker)[0].launch, None);
}

#[test]
fn a_flood_of_denials_is_told_at_most_once_a_second() {
    let broker = Broker::start();
    let mut client = broker.connect();
    let start = Instant::now();
    let (mut asked, mut told, mut orders) = (0, 0, 0);
    // Three of them come while it lasts, and then the rest.
    while orders < 3 || told < asked {
        if orders < 3 {
            assert_eq!(
                reason(client.ask(Body::Launch(sleep("x")))),
                Reason::Argument
            );
            asked += 1;
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            if recv(&broker.link, &mut [0; 1], flags).is_err() {
                assert!(start.elapsed() < LONG, "{orders} orders");
                continue;
            }
        }
        for counts in denials(&broker) {
            assert_eq!(counts.rule.as_deref(), Some("sleep"));
            told += counts.count;
        }
        orders += 1;
    }
    assert_eq!(told, asked);
    // One at once, and one for each second since then.
    let most = 1 + start.elapsed().as_secs();
    assert!(
        orders <= most,
        "{orders} orders for {asked} denials, not {most}"
    );
}

#[test]
fn a_policy_that_says_code_alone_is_obeyed_and_the_launcher_still_told() {
    let policy = POLICY.replace("version = 1", "version = 1\ndetail = \"code\"");
    let broker = Setup::new().policy(&policy).start();
    let mut launch = sleep("5");
    launch.args.push("--secret".to_owned());
    match broker.connect().ask(Body::Launch(launch)) {
        Reply::Denied {
            reason,
            rule,
            message,
        } => {
            assert_eq!((reason, rule), (Reason::Argument, None));
            assert_eq!(message, Reason::Argument.text());
        }
        other => panic!("{other:?}"),
    }
    assert!(denials(&broker)[0].message.contains("--secret"));
}

#[test]
fn a_dry_run_is_answered_here_and_launches_nothing() {
    let broker = Broker::start();
    let mut client = broker.connect();
    let dry = |seconds| {
        Body::Launch(Launch {
            dry_run: true,
            ..sleep(seconds)
        })
    };
    match client.ask(dry("5")) {
        Reply::Explained {
            allowed: true,
            report,
        } => {
            assert!(
                report.contains("test-sleep-5") && report.contains("localhost/busybox:1"),
                "{report}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(reason(client.ask(dry("x"))), Reason::Argument);
    let told = denials(&broker);
    assert_eq!(told[0].reason, Reason::Argument);
}

#[test]
fn what_is_not_served_yet_says_so() {
    let broker = Broker::start();
    let mut client = broker.connect();
    let target = || Target::Name("test-sleep-5".to_owned());
    for body in [
        Body::Signal {
            target: target(),
            signal: 15,
        },
        Body::Stop {
            target: target(),
            timeout: None,
        },
        Body::List {
            all: true,
            after: None,
        },
        Body::Logs {
            target: target(),
            tail: None,
            follow: false,
        },
        Body::Wait { target: target() },
        Body::Metrics,
        Body::Launch(Launch {
            attach: Attach::Streams,
            ..sleep("5")
        }),
    ] {
        assert_eq!(reason(client.ask(body)), Reason::Unsupported);
    }
}

#[test]
fn a_peer_that_the_policy_does_not_admit_gets_nothing_but_denials() {
    let broker = Setup::new()
        .policy(&POLICY.replace("uid = 0", "uid = 4711"))
        .start();
    for body in [
        Body::Ping,
        Body::Launch(sleep("5")),
        Body::List {
            all: true,
            after: None,
        },
    ] {
        let mut client = broker.connect();
        assert_eq!(reason(client.ask(body)), Reason::Peer);
        assert_eq!(client.reply(), None);
    }
    assert_eq!(denials(&broker)[0].reason, Reason::Peer);
}

#[test]
fn a_peer_that_cannot_be_known_gets_nothing_but_denials() {
    let broker = Setup::new().unseen().start();
    for body in [Body::Ping, Body::Launch(sleep("5"))] {
        assert_eq!(reason(broker.connect().ask(body)), Reason::Peer);
    }
}

#[test]
fn without_a_policy_every_launch_is_refused_and_a_ping_still_answered() {
    let broker = Setup::new().no_policy().start();
    let mut client = broker.connect();
    assert_eq!(
        reason(client.ask(Body::Launch(sleep("5")))),
        Reason::PolicyUnavailable
    );
    let dry = Launch {
        dry_run: true,
        ..sleep("5")
    };
    assert_eq!(
        reason(client.ask(Body::Launch(dry))),
        Reason::PolicyUnavailable
    );
    assert_eq!(client.ping().generation, "");
}

#[test]
fn a_policy_that_does_not_compile_here_counts_as_none() {
    let broker = Setup::new().policy("version = 1\nsurprise = true").start();
    let mut client = broker.connect();
    assert_eq!(
        reason(client.ask(Body::Launch(sleep("5")))),
        Reason::PolicyUnavailable
    );
    assert!(broker.log().contains("surprise"), "{}", broker.log());
}
