//! From a side container's end to its removal, and from the last one's removal to the pair's own exit.

use portcullis_tests::{Host, SLEEP, holds, launch, launched};
use portcullis_wire::Body;
use rustix::process::Signal;

#[test]
fn a_side_container_is_removed_after_it_ends() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("sleep", &["1000"])));
    let other = launched(service.client().launch(launch("sleep", &["2000"])));
    answer.process().signal(Signal::KILL);
    holds("it is removed", || {
        host.engine().find("sleep-1000").is_none()
    });
    assert_eq!(host.engine().container("sleep-2000").id, other.container);
    // By full ID, never by name: the name may be somebody else's by then.
    for call in host
        .engine()
        .calls()
        .all()
        .iter()
        .filter(|c| c.subcommand() == "rm")
    {
        assert!(call.arguments.contains(&answer.container), "{call:?}");
        assert!(
            !call.arguments.iter().any(|a| a == "sleep-1000"),
            "{call:?}"
        );
    }
}

#[test]
fn a_side_container_that_ended_while_the_launcher_was_away_is_removed_after_the_next_start() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("sleep", &["1000"])));
    let process = answer.process();
    service.kill();
    process.signal(Signal::KILL);
    holds("it has ended", || {
        host.engine().container("sleep-1000").state == "exited"
    });
    let _service = agent.start();
    holds("it is removed", || host.engine().containers().is_empty());
}

#[test]
fn podman_ps_is_called_once_and_not_for_every_launch() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let mut client = service.client();
    for seconds in 1000..1010 {
        let _ = launched(client.launch(launch("sleep", &[&seconds.to_string()])));
    }
    let calls = host.engine().calls();
    let lists = calls
        .all()
        .iter()
        .filter(|c| c.subcommand() == "ps")
        .count();
    assert!(lists <= 1, "{lists} times");
}

#[test]
fn the_pair_exits_when_it_is_idle() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP).option("--idle-exit", "1s");
    let mut client = agent.client();
    let service = agent.start();
    assert!(client.is_served());
    let broker = service.broker();
    drop(client);
    assert!(service.wait().success());
    holds("the broker too", || !broker.is_alive());
}

#[test]
fn a_connection_or_a_side_container_keeps_the_pair_from_exiting() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP).option("--idle-exit", "300ms");
    let mut client = agent.client();
    let mut service = agent.start();
    let answer = launched(client.launch(launch("sleep", &["1000"])));
    let begin = std::time::Instant::now();
    while begin.elapsed().as_millis() < 1000 {
        assert!(client.is_served());
        assert!(service.is_running(), "with a connection");
    }
    drop(client);
    let begin = std::time::Instant::now();
    holds("more than the idle time passes", || {
        assert!(service.is_running(), "with a side container");
        begin.elapsed().as_millis() > 1000
    });
    answer.process().signal(Signal::KILL);
    assert!(service.wait().success(), "with neither");
    assert!(
        host.engine().containers().is_empty(),
        "the ended one is removed before"
    );
}

#[test]
fn a_request_under_way_keeps_the_pair_from_exiting() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP).option("--idle-exit", "300ms");
    host.engine().hang("run", "");
    let mut client = agent.client();
    let mut service = agent.start();
    client
        .send(Body::Launch(launch("sleep", &["1000"])))
        .unwrap();
    holds("podman is called", || {
        !host.engine().calls().runs().is_empty()
    });
    drop(client);
    let begin = std::time::Instant::now();
    holds("more than the idle time passes", || {
        assert!(service.is_running());
        begin.elapsed().as_millis() > 1000
    });
    host.engine().release("run");
    holds("it runs", || host.engine().find("sleep-1000").is_some());
}

#[test]
fn a_client_that_goes_away_before_its_answer_disturbs_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    for seconds in ["1000", "1001", "1002"] {
        let mut client = service.client();
        client
            .send(Body::Launch(launch("sleep", &[seconds])))
            .unwrap();
        drop(client);
    }
    holds("what was sent is done", || {
        host.engine()
            .containers()
            .iter()
            .filter(|c| c.state == "running")
            .count()
            == 3
    });
    assert!(launched(service.client().launch(launch("sleep", &["1000"]))).reused);
}
