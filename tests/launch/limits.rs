//! The policy's limits, as the launcher counts them.

use portcullis_tests::{Client, Host, SLEEP, denied, holds, launch, launched};
use portcullis_wire::{Body, Reason, Reply};
use rustix::process::Signal;
use std::time::Instant;

#[test]
fn an_agent_with_as_many_side_containers_as_allowed_gets_no_more_until_one_ends() {
    let host = Host::new();
    let agent = host.agent("blue", &format!("\n[limits]\nrunning = 2\n{SLEEP}"));
    let service = agent.start();
    let mut client = service.client();
    let first = launched(client.launch(launch("sleep", &["1001"])));
    let _ = launched(client.launch(launch("sleep", &["1002"])));
    assert_eq!(
        denied(client.launch(launch("sleep", &["1003"]))),
        Reason::LimitRunning
    );
    // A repeat needs no room.
    assert!(launched(client.launch(launch("sleep", &["1002"]))).reused);
    assert_eq!(host.engine().containers().len(), 2);
    // The count is true after a restart too.
    service.kill();
    let service = agent.start();
    let mut client = service.client();
    assert_eq!(
        denied(client.launch(launch("sleep", &["1003"]))),
        Reason::LimitRunning
    );
    first.process().signal(Signal::KILL);
    holds("there is room", || {
        match client.launch(launch("sleep", &["1003"])) {
            Reply::Launched { .. } => true,
            other => {
                // To ask that often is more than the rate allows, too, in the long run.
                let reasons = [Reason::LimitRunning, Reason::LimitRate];
                assert!(reasons.contains(&denied(other)));
                false
            }
        }
    });
    holds("two are there", || host.engine().containers().len() == 2);
}

#[test]
fn an_agent_that_launches_more_often_than_allowed_is_refused() {
    let host = Host::new();
    let agent = host.agent(
        "blue",
        &format!("\n[limits]\nlaunches = \"3/hour\"\n{SLEEP}"),
    );
    let service = agent.start();
    let mut client = service.client();
    let mut refused = 0;
    for seconds in 1000..1010 {
        match client.launch(launch("sleep", &[&seconds.to_string()])) {
            Reply::Launched { .. } => {}
            other => {
                assert_eq!(denied(other), Reason::LimitRate);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 7);
    assert_eq!(host.engine().containers().len(), 3);
    assert!(client.is_served(), "a ping is no launch");
}

#[test]
fn an_agent_with_as_many_requests_under_way_as_allowed_is_refused() {
    let host = Host::new();
    let agent = host.agent("blue", &format!("\n[limits]\nin_flight = 2\n{SLEEP}"));
    let service = agent.start();
    host.engine().hang("run", "");
    let mut clients = [service.client(), service.client()];
    for (client, seconds) in clients.iter_mut().zip(["1001", "1002"]) {
        client
            .send(Body::Launch(launch("sleep", &[seconds])))
            .unwrap();
        holds("podman is called", || {
            !host
                .engine()
                .calls()
                .runs_of(&format!("sleep-{seconds}"))
                .is_empty()
        });
    }
    let reply = service.client().launch(launch("sleep", &["1003"]));
    assert_eq!(denied(reply), Reason::LimitInFlight);
    host.engine().release("run");
    for client in &clients {
        let _ = launched(client.reply().reply);
    }
    let _ = launched(service.client().launch(launch("sleep", &["1003"])));
}

#[test]
fn invariant_5_a_full_queue_is_busy_for_the_next_and_one_worker_runs_one_podman() {
    const QUEUE: usize = 64;
    const MORE: usize = 5;
    let host = Host::new();
    let agent = host
        .agent("blue", &format!("\n[limits]\nin_flight = 200\n{SLEEP}"))
        .engine("workers = 1");
    let service = agent.start();
    host.engine().hang("run", "");
    let mut client = service.client();
    let mut ask = |seconds: usize| {
        let launch = launch("sleep", &[&seconds.to_string()]);
        client.send(Body::Launch(launch)).unwrap()
    };
    ask(1000);
    holds("the worker is at work", || {
        host.engine().calls().runs().len() == 1
    });
    let ids: Vec<u64> = (1001..=1000 + QUEUE + MORE).map(&mut ask).collect();
    for id in &ids[QUEUE..] {
        let response = client.reply();
        assert_eq!(response.id, *id);
        assert_eq!(response.reply, Reply::Busy { retry_after: 50 });
    }
    holds("they are recorded", || {
        service.audit().with("verdict", "busy").len() == MORE
    });
    assert_eq!(host.engine().calls().runs().len(), 1, "one at a time");
    assert!(host.engine().containers().is_empty());
    assert!(service.operator().is_served());
}

/// What is asked for again and again in vain must not push the records of launches out of the log.
#[test]
fn busy_flood_leaves_few_records() {
    const QUEUE: usize = 64;
    const FLOOD: usize = 2000;
    let host = Host::new();
    let limits = "\n[limits]\nin_flight = 200\nlaunches = \"10000/hour\"\n";
    let agent = host
        .agent("blue", &format!("{limits}{SLEEP}"))
        .engine("workers = 1");
    let service = agent.start();
    host.engine().hang("run", "");
    let mut client = service.client();
    let ask = |client: &mut Client, seconds: usize| {
        let launch = launch("sleep", &[&seconds.to_string()]);
        client.send(Body::Launch(launch)).unwrap()
    };
    ask(&mut client, 1000);
    holds("the worker is at work", || {
        host.engine().calls().runs().len() == 1
    });
    for seconds in 1001..=1000 + QUEUE {
        ask(&mut client, seconds);
    }
    let begin = Instant::now();
    for seconds in 0..FLOOD {
        let id = ask(&mut client, 2000 + seconds);
        let response = client.reply();
        assert_eq!(response.id, id);
        assert_eq!(response.reply, Reply::Busy { retry_after: 50 });
    }
    let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap();
    let records = || {
        let audit = service.audit();
        let busy = audit.with("verdict", "busy");
        let counts = busy.iter().filter_map(|record| record["count"].as_u64());
        let counted = usize::try_from(counts.sum::<u64>()).unwrap();
        let single = busy.iter().filter(|r| r["count"].is_null()).count();
        (single, counted)
    };
    holds("none is missing", || {
        let (single, counted) = records();
        single + counted == FLOOD
    });
    let (single, _) = records();
    assert!(
        single <= 100 + 50 * (seconds + 1),
        "{single} in {seconds} s"
    );
}
