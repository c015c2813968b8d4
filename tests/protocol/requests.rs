//! Requests that are understood: each is answered once, with its own id.

use portcullis_tests::{Host, SLEEP, denied, launch};
use portcullis_wire::{Attach, Body, Reason, Reply, Target};
use std::collections::BTreeSet;

#[test]
fn a_ping_tells_agent_generation_version_and_sandbox() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let Reply::Pong(pong) = service.client().call(Body::Ping) else {
        panic!()
    };
    assert_eq!(pong.agent, "blue");
    assert!(pong.generation.len() == 16 && pong.generation.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(!pong.version.is_empty());
    for layer in [
        "user",
        "capabilities",
        "no-new-privileges",
        "landlock",
        "seccomp",
    ] {
        assert!(
            pong.layers.iter().any(|l| l == layer),
            "{layer} in {:?}",
            pong.layers
        );
    }
    assert!(pong.landlock_abi >= 1);
    assert!(["pidfd", "start-time"].contains(&pong.peer_identification.as_str()));
}

#[test]
fn what_is_not_served_yet_says_so() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let mut client = service.client();
    let target = || Target::Name("sleep-1".into());
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
    ] {
        assert_eq!(denied(client.call(body)), Reason::Unsupported);
    }
    let mut streams = launch("sleep", &["1"]);
    streams.attach = Attach::Streams;
    assert_eq!(denied(client.launch(streams)), Reason::Unsupported);
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn a_dry_run_starts_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let mut client = service.client();
    let mut dry = launch("sleep", &["100"]);
    dry.dry_run = true;
    match client.launch(dry.clone()) {
        Reply::Explained {
            allowed: true,
            report,
        } => assert!(!report.is_empty()),
        other => panic!("{other:?}"),
    }
    dry.args = vec!["1; reboot".into()];
    assert_eq!(denied(client.launch(dry)), Reason::Argument);
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn invariant_6_many_requests_on_one_connection_are_each_answered_once() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let mut client = service.client();
    let mut expected = BTreeSet::new();
    for number in 0..60 {
        let body = match number % 3 {
            0 => Body::Ping,
            1 => Body::Launch(launch("reboot", &[])),
            _ if number < 24 => Body::Launch(launch("sleep", &[&format!("1{number:03}")])),
            _ => Body::Metrics,
        };
        expected.insert(client.send(body).unwrap());
    }
    let mut launched = 0;
    while !expected.is_empty() {
        let response = client.reply();
        assert!(
            expected.remove(&response.id),
            "a second answer: {response:?}"
        );
        launched += usize::from(matches!(response.reply, Reply::Launched { .. }));
    }
    assert!(client.is_served(), "and nothing more came");
    assert_eq!(launched, host.engine().containers().len());
    assert_eq!(launched, 8);
}
