//! The policy's limits and lines: what is a matter of time makes them wait, what is not denies them.

use crate::{SLEEP, denied, launched, line};
use portcullis_tests::{Host, Spool, holds};
use std::time::{Duration, Instant};

#[test]
fn a_rate_delays_lines_and_loses_none() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!("\n[limits]\nlaunches = \"1/s\"\n{SLEEP}{}", spool.table());
    let agent = host.agent("blue", &rules);
    let lines: Vec<_> = (1001..1009).map(line).collect();
    spool.append(format!("{}\n", lines.join("\n")).as_bytes());
    let begin = Instant::now();
    let service = agent.start();
    holds("they are taken, whatever the rate", || {
        spool.content().is_empty()
    });
    assert!(begin.elapsed() < Duration::from_secs(5));
    for seconds in 1001..1009 {
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
    assert!(begin.elapsed() >= Duration::from_secs(7), "one a second");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().calls().runs().len(), 8);
    assert!(service.audit().of_lines(spool.dir(), "denied").is_empty());
}

/// Lines have half of the places, and datagrams find room.
#[test]
fn half_as_many_under_way_as_allowed_delay_lines_and_lose_none() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!("\n[limits]\nin_flight = 4\n{SLEEP}{}", spool.table());
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    host.engine().hang("run", "");
    let lines: Vec<_> = (1001..1009).map(line).collect();
    spool.append(format!("{}\n", lines.join("\n")).as_bytes());
    spool.touch();
    let runs = || host.engine().calls().runs().len();
    holds("two are under way", || runs() == 2);
    holds("all are taken", || spool.content().is_empty());
    assert!(service.operator().is_served());
    assert_eq!(runs(), 2);
    host.engine().release("run");
    for seconds in 1001..1009 {
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
    spool.wait_until_done(&agent);
    assert!(service.audit().of_lines(spool.dir(), "denied").is_empty());
}

/// Those who wait for an answer are behind the lines that are under way, and not behind those that wait.
#[test]
fn a_client_is_answered_while_lines_wait_for_their_turn() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!("\n[limits]\nin_flight = 16\n{SLEEP}{}", spool.table());
    let agent = host.agent("blue", &rules);
    let lines: Vec<_> = (1001..1041).map(line).collect();
    spool.append(format!("{}\n", lines.join("\n")).as_bytes());
    let service = agent.start();
    launched(&service, &spool, "sleep-1001");
    let begin = service.audit().of_lines(spool.dir(), "launched").len();
    let request = portcullis_tests::launch("sleep", &["2000"]);
    let _ = portcullis_tests::launched(service.client().launch_patiently(&request));
    let during = service.audit().of_lines(spool.dir(), "launched").len() - begin;
    assert!(during < 20, "it waited for {during} lines");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().containers().len(), 41);
}

#[test]
fn an_agent_with_as_many_side_containers_as_allowed_gets_no_more_by_lines() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!("\n[limits]\nrunning = 2\n{SLEEP}{}", spool.table());
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    for seconds in [1001, 1002] {
        spool.write(&line(seconds));
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
    spool.write(&line(1003));
    denied(&service, &spool, "limit-running", "1003");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().containers().len(), 2);
}
