//! The policy's limits and lines: what is a matter of time makes them wait, what is not denies them.

use crate::outcomes::FLAKY;
use crate::{NAP, SLEEP, denied, launched, launched_before, line, takes, with_spools};
use portcullis_tests::{Host, Service, Spool, holds, launch};
use portcullis_wire::{Body, Reply};
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
    for seconds in 1001..1009 {
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
    assert!(begin.elapsed() >= Duration::from_secs(7), "one a second");
    let takes = takes(&service.audit(), &spool);
    assert_eq!(takes, [8], "all are taken at once, whatever the rate");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().calls().runs().len(), 8);
    assert!(service.audit().of_lines(spool.dir(), "denied").is_empty());
}

/// What has been begun, while podman hangs.
#[track_caller]
fn under_way(service: &Service) -> Vec<String> {
    let items = service.list(false).into_iter();
    items.map(|item| item.name).collect()
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
    holds("two are under way", || {
        under_way(&service) == ["sleep-1001", "sleep-1002"]
    });
    holds("all are taken", || takes(&service.audit(), &spool) == [8]);
    // They get the two places that lines have left.
    let clients = ["2001", "2002"].map(|seconds| {
        let mut client = service.client();
        let request = launch("sleep", &[seconds]);
        client.send(Body::Launch(request)).unwrap();
        client
    });
    holds("so are two of datagrams", || {
        under_way(&service) == ["sleep-1001", "sleep-1002", "sleep-2001", "sleep-2002"]
    });
    host.engine().release("run");
    for client in clients {
        let _ = portcullis_tests::launched(client.reply().reply);
    }
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
    host.engine().hang("run", "");
    let service = agent.start();
    let mut client = service.client();
    let request = launch("sleep", &["2000"]);
    client.send(Body::Launch(request)).unwrap();
    holds("the client's and half as many lines are under way", || {
        let names = under_way(&service);
        names.len() == 9 && names.contains(&"sleep-2000".into())
    });
    host.engine().release("run");
    let _ = portcullis_tests::launched(client.reply().reply);
    spool.wait_until_done(&agent);
    let before = launched_before(&service.audit(), &spool, "sleep-2000");
    assert!(before < 20, "it waited for {before} lines");
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

/// Whoever writes much is nobody else's matter.
#[test]
fn a_spool_with_one_line_does_not_wait_for_one_with_many() {
    let host = Host::new();
    let (sleeps, naps) = (Spool::new(&host, "sleep"), Spool::new(&host, "nap"));
    let rules = format!("\n[limits]\nin_flight = 4\n{SLEEP}");
    let agent = with_spools(&host, &[&rules, NAP], &[&sleeps, &naps]);
    let service = agent.start();
    host.engine().hang("run", "");
    let lines: Vec<_> = (1001..1041).map(line).collect();
    sleeps.append(format!("{}\n", lines.join("\n")).as_bytes());
    sleeps.touch();
    holds("the many are taken", || {
        takes(&service.audit(), &sleeps) == [40]
    });
    naps.write(&line(3000));
    holds("the one is taken", || takes(&service.audit(), &naps) == [1]);
    host.engine().release("run");
    launched(&service, &naps, "nap-3000");
    let before = launched_before(&service.audit(), &sleeps, "nap-3000");
    assert!(before < 20, "{before} of the other spool's were before it");
}

/// Else a line that always fails would get six times what the policy allows.
#[test]
fn each_try_of_a_line_that_fails_counts_as_a_launch() {
    let host = Host::new();
    let spool = Spool::new(&host, "flaky");
    let rules = format!("\n[limits]\nlaunches = \"4/hour\"\n{SLEEP}");
    let rules = rules.replace("spool = true\n", "");
    let agent = with_spools(&host, &[&rules, FLAKY], &[&spool]);
    let service = agent.start();
    spool.write("'' a");
    holds("half of the rate is used up", || {
        host.engine().calls().runs_of("flaky-a").len() == 2
    });
    let begin = Instant::now();
    holds("more than the pause before the next try passes", || {
        begin.elapsed() > Duration::from_secs(4)
    });
    for (n, seconds) in ["2001", "2002", "2003"].iter().enumerate() {
        let reply = service.client().launch(launch("sleep", &[seconds]));
        let is_launched = matches!(reply, Reply::Launched { .. });
        assert_eq!(is_launched, n < 2, "{n}: {reply:?}");
    }
    assert_eq!(host.engine().calls().runs_of("flaky-a").len(), 2);
}

/// An agent that writes more than the policy lets be launched fills its own directory, not the host's disk.
#[test]
fn no_more_is_taken_while_the_journal_has_as_much_as_two_files() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rate = "launches = \"1/hour\"";
    let agent = with_spools(&host, &[&format!("\n[limits]\n{rate}\n{SLEEP}")], &[&spool]);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    let many = format!("'' 1{}\n", "0".repeat(60_000)).repeat((16 << 20) / 60_005);
    // A little less than a file may have.
    for _ in 0..3 {
        spool.append(many.as_bytes());
        spool.touch();
        holds("they are taken", || spool.content().is_empty());
    }
    spool.write(&line(1002));
    let begin = Instant::now();
    holds("more than the pause between looks passes", || {
        begin.elapsed() > Duration::from_secs(3)
    });
    assert_eq!(spool.content(), format!("{}\n", line(1002)));
    assert!(agent.journal() < 3 * (16 << 20), "{}", agent.journal());

    agent.write_policy(&agent.policy_text().replace(rate, "launches = \"10000/s\""));
    service.reload();
    launched(&service, &spool, "sleep-1002");
    spool.wait_until_done(&agent);
}

/// An agent that fills its files costs others no more than that, whatever its policy's rate is.
#[test]
fn of_lines_that_are_denied_a_thousand_a_second_are_looked_at() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!("\n[limits]\nlaunches = \"10000/s\"\n{SLEEP}");
    let agent = with_spools(&host, &[&rules], &[&spool]);
    let service = agent.start();
    assert!(service.client().is_served());
    let begin = Instant::now();
    spool.append("'' --no\n".repeat(4000).as_bytes());
    spool.touch();
    spool.wait_until_done(&agent);
    let seconds = begin.elapsed().as_secs();
    assert!(seconds >= 2, "a thousand at once, and the others then");
    // Nor are they the whole log.
    let records = service.audit().of_lines(spool.dir(), "denied").len();
    let most = 200 + 100 * usize::try_from(seconds + 1).unwrap();
    assert!((1..=most).contains(&records), "{records} in {seconds} s");
}

#[test]
fn no_more_is_taken_while_as_many_lines_wait_as_are_taken_at_once() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!("\n[limits]\nlaunches = \"1/hour\"\n{SLEEP}");
    let agent = with_spools(&host, &[&rules], &[&spool]);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    spool.append("'' 1\n".repeat(65_536).as_bytes());
    spool.touch();
    holds("they are taken", || spool.content().is_empty());
    spool.write(&line(1002));
    let begin = Instant::now();
    holds("more than the pause between looks passes", || {
        begin.elapsed() > Duration::from_secs(3)
    });
    assert_eq!(spool.content(), format!("{}\n", line(1002)));
}
