//! The operator's socket: what runs, for how long, how it ended; stopping it, reading it, counting it.

use portcullis_tests::{Host, Netns, Process, Service, holds, launch, launched};
use portcullis_wire::{Body, Launch, Reason, Reply, State, Target};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const RULES: &str = r#"
[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
netns = "pct-{network:uuid}"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }]
[launch.container]
name = "sleep-{network}"
user = "0:0"
stop_timeout = "1s"

[[launch]]
rule = "polite"
command = "polite"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"]
[launch.container]
name = "polite-one"
user = "0:0"
stop_timeout = "60s"

[[launch]]
rule = "replaced"
command = "replaced"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done", "sh"]
args = [{ min = 1, pattern = "{:int}" }]
[launch.container]
name = "replaced-one"
user = "0:0"
on_conflict = "replace"

[[launch]]
rule = "counting"
command = "counting"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "trap 'echo bye; exit' TERM; seq $0; while :; do sleep 0.05; done"]
args = [{ min = 1, pattern = "{numbers:int}" }]
[launch.container]
name = "counting-one"
user = "0:0"
log = "k8s-file"

[[launch]]
rule = "failing"
command = "failing"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "exit 9"]
[launch.container]
name = "failing-one"
user = "0:0"
ready = { pid_file = "/run/pid", timeout = "60s" }
"#;

fn stop(name: &str, timeout: Option<u32>) -> Body {
    let target = Target::Name(name.into());
    Body::Stop { target, timeout }
}

#[test]
fn a_list_says_namespace_age_and_the_last_exit() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let netns = Netns::new();
    let service = agent.start();
    let request = Launch {
        netns: Some(netns.name().into()),
        ..launch("sleep", &["1000"])
    };
    let answer = launched(service.client().launch(request.clone()));
    let process = answer.process();
    let [row] = &service.list(false)[..] else {
        panic!("one row")
    };
    assert_eq!(row.netns.as_deref(), Some(netns.name()));
    assert_eq!((row.state, row.rule.as_str()), (State::Running, "sleep"));
    assert_eq!(row.last_exit, None);
    let began = Instant::now();
    holds("it grows older", || {
        service.list(false)[0].age >= Some(1) && began.elapsed() >= Duration::from_secs(1)
    });

    process.signal(Signal::KILL);
    holds("it is removed", || service.list(false).is_empty());
    let [row] = &service.list(true)[..] else {
        panic!("one row")
    };
    assert_eq!(
        (row.state, row.last_exit, row.pid),
        (State::Ended, Some(137), 0)
    );
    assert_eq!(row.netns.as_deref(), Some(netns.name()));
    assert!(row.age.is_some_and(|seconds| seconds < 60));

    // The next one of that name says how the one before ended.
    let _ = launched(service.client().launch(request));
    assert_eq!(service.list(false)[0].last_exit, Some(137));
    // A program that was never ready has ended, too.
    let _ = service.client().launch(launch("failing", &[]));
    holds("it is among those that ended", || {
        let rows = service.list(true);
        rows.iter()
            .any(|r| r.name == "failing-one" && r.last_exit == Some(9))
    });
    // A later life of the launcher still knows the namespace and the age of what runs.
    service.kill();
    let service = agent.start();
    holds("it is found again", || service.list(false).len() == 1);
    let row = &service.list(false)[0];
    assert_eq!(row.netns.as_deref(), Some(netns.name()));
    assert!(row.age.is_some());
}

#[test]
fn a_stop_asks_politely_and_tells_of_the_end() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("polite", &[])));
    let _ = answer.process().that_handles(Signal::TERM);
    let mut operator = service.operator();
    assert_eq!(
        operator.call(stop("polite-one", None)),
        Reply::Done { exit: Some(7) }
    );
    assert!(Process::find(answer.pid).is_none());
    assert!(host.engine().find("polite-one").is_none(), "it was removed");
    assert_eq!(operator.call(stop("polite-one", None)), Reply::NotFound);
    assert_eq!(service.audit().with("verdict", "stopped").len(), 1);
}

#[test]
fn a_request_in_vain_changes_nothing_that_is_told_of_what_runs() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("polite", &[])));
    let _ = answer.process().that_handles(Signal::TERM);
    let before = service.list(false);
    // Another rule has the command and the name from now on.
    let other = agent
        .policy_text()
        .replace("rule = \"polite\"", "rule = \"other\"");
    agent.write_policy(&other);
    service.reload();
    let reply = service.client().launch(launch("polite", &[]));
    assert!(
        matches!(
            reply,
            Reply::Denied {
                reason: Reason::Name,
                ..
            }
        ),
        "{reply:?}"
    );
    let after = service.list(false);
    assert_eq!(
        (&after[0].rule, &after[0].pid),
        (&before[0].rule, &before[0].pid)
    );
    // It is stopped as its own rule says: with patience for its exit code.
    let reply = service.operator().call(stop("polite-one", None));
    assert_eq!(reply, Reply::Done { exit: Some(7) });
    assert_eq!(
        service.audit().with("verdict", "stopped")[0]["rule"],
        "polite"
    );
}

#[test]
fn one_that_was_replaced_has_ended_like_any_other() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let first = launched(service.client().launch(launch("replaced", &["1"])));
    let _ = first.process().that_handles(Signal::TERM);
    let second = launched(service.client().launch(launch("replaced", &["2"])));
    assert_ne!(first.container, second.container);
    assert_eq!(service.list(false)[0].last_exit, Some(5));
    let ended = "portcullis_side_containers_ended_total{agent=\"blue\"} 1";
    assert!(service.metrics().lines().any(|line| line == ended));
}

/// The processor time that a process has taken, in clock ticks.
fn ticks(process: Process) -> u64 {
    let stat = std::fs::read_to_string(process.file("stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_operator_who_does_not_wait_for_the_end_costs_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let netns = Netns::new();
    let service = agent.start();
    let request = Launch {
        netns: Some(netns.name().into()),
        ..launch("sleep", &["1000"])
    };
    let answer = launched(service.client().launch(request));
    let mut operator = service.operator();
    operator.send(stop(&answer.name, Some(600))).unwrap();
    holds("the stop is under way", || {
        !service.audit().with("verdict", "stopping").is_empty()
    });
    drop(operator);
    assert!(service.operator().is_served());
    let (before, begin) = (ticks(service.launcher()), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let (taken, passed) = (ticks(service.launcher()) - before, begin.elapsed());
    assert!(
        u128::from(taken) * 10 < passed.as_millis() / 2,
        "{taken} ticks in {passed:?}"
    );
}

#[test]
fn a_program_that_does_not_listen_is_killed_when_patience_ends() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let netns = Netns::new();
    let service = agent.start();
    let request = Launch {
        netns: Some(netns.name().into()),
        ..launch("sleep", &["1000"])
    };
    // As the first process of a PID namespace, sleep gets no signal that it has no handler for.
    let answer = launched(service.client().launch(request.clone()));
    let mut operator = service.operator();
    let id = operator.send(stop(&answer.name, None)).unwrap();
    // Whoever asks for it meanwhile is told to ask again, and gets a new one then.
    holds("the stop is under way", || {
        !service.audit().with("verdict", "stopping").is_empty()
    });
    let next = launched(service.client().launch_patiently(&request));
    assert_ne!(next.container, answer.container);
    assert!(!next.reused);
    let response = operator.reply();
    assert_eq!(
        (response.id, response.reply),
        (id, Reply::Done { exit: Some(137) })
    );
    // By its ID, and without patience.
    let target = Target::Container(next.container);
    let timeout = Some(0);
    assert_eq!(
        operator.call(Body::Stop { target, timeout }),
        Reply::Done { exit: Some(137) }
    );
}

#[test]
fn an_agent_stops_lists_and_reads_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let _ = launched(service.client().launch(launch("polite", &[])));
    let all = true;
    let (tail, follow) = (None, false);
    let target = Target::Name("polite-one".into());
    for body in [
        stop("polite-one", None),
        Body::List { all, after: None },
        Body::Logs {
            target,
            tail,
            follow,
        },
        Body::Metrics,
    ] {
        match service.client().call(body.clone()) {
            Reply::Denied { reason, .. } => assert_eq!(reason, Reason::Unsupported, "{body:?}"),
            other => panic!("{body:?}: {other:?}"),
        }
    }
    assert_eq!(service.list(false)[0].state, State::Running);
}

#[test]
fn metrics_count_answers_by_verdict_and_reason_and_no_word_of_a_client_is_in_them() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let mut client = service.client();
    let _ = launched(client.launch(launch("polite", &[])));
    let _ = launched(client.launch(launch("polite", &[])));
    for _ in 0..3 {
        let _ = client.launch(launch("evil\"} 1\nportcullis_answers_total 666", &[]));
    }
    let lines = [
        "portcullis_answers_total{agent=\"blue\",verdict=\"launched\",by=\"launcher\"} 1",
        "portcullis_answers_total{agent=\"blue\",verdict=\"reused\",by=\"launcher\"} 1",
        "portcullis_answers_total{agent=\"blue\",verdict=\"denied\",reason=\"no-rule\",by=\"broker\"} 3",
        "portcullis_side_containers{agent=\"blue\",state=\"running\"} 1",
        "portcullis_launch_seconds_count{agent=\"blue\"} 2",
        "portcullis_policy_usable{agent=\"blue\"} 1",
        "portcullis_brokers_started_total{agent=\"blue\"} 1",
    ];
    // The broker's denials come within a second.
    holds("all are counted", || {
        let text = service.metrics();
        lines.iter().all(|line| text.lines().any(|l| l == *line))
    });
    let text = service.metrics();
    assert!(
        text.ends_with("\n# EOF\n") && !text.contains("666"),
        "{text}"
    );
    // What OpenMetrics has beside these, node_exporter refuses.
    let mut kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let known = |line: &str| {
        ["counter", "gauge", "histogram"]
            .iter()
            .any(|kind| line.ends_with(kind))
    };
    assert!(kinds.all(known), "{text}");
    let series: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    let unique: BTreeSet<_> = series.iter().collect();
    assert_eq!(series.len(), unique.len(), "no series twice: {text}");
}

fn read(name: &str, tail: Option<u32>, follow: bool) -> Body {
    Body::Logs {
        target: Target::Name(name.into()),
        tail,
        follow,
    }
}

/// What the answer to `Logs` brings, and its last reply.
fn logs(service: &Service, name: &str, tail: Option<u32>, follow: bool) -> (String, Reply) {
    logs_until(service, name, tail, follow, |_| ())
}

/// The same, and is shown with every piece what has come by then.
fn logs_until(
    service: &Service,
    name: &str,
    tail: Option<u32>,
    follow: bool,
    mut see: impl FnMut(&str),
) -> (String, Reply) {
    let mut operator = service.operator();
    let id = operator.send(read(name, tail, follow)).unwrap();
    let mut text = String::new();
    loop {
        let response = operator.reply();
        assert_eq!(response.id, id);
        match response.reply {
            Reply::Chunk { bytes } => text += str::from_utf8(&bytes).unwrap(),
            last => return (text, last),
        }
        see(&text);
    }
}

#[test]
fn logs_are_read_whole_or_from_a_line_on_and_followed_to_the_end() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("counting", &["20000"])));
    let done = Reply::Done { exit: None };
    let numbers = |from: u32| (from..=20_000).fold(String::new(), |all, n| all + &format!("{n}\n"));
    holds("it has counted", || {
        logs(&service, "counting-one", Some(1), false).0 == "20000\n"
    });
    let (all, last) = logs(&service, "counting-one", None, false);
    assert!(all == numbers(1) && last == done, "{} {last:?}", all.len());
    assert_eq!(
        logs(&service, "counting-one", Some(3), false).0,
        numbers(19_998)
    );

    // What it writes when it is told to end comes after what was there.
    let main = answer.process();
    let followed = logs_until(&service, "counting-one", None, true, |text| {
        if text.ends_with("\n20000\n") {
            main.signal(Signal::TERM);
        }
    });
    assert!(
        followed == (numbers(1) + "bye\n", done),
        "{}",
        followed.0.len()
    );
    assert_eq!(
        logs(&service, "nobody", None, false),
        (String::new(), Reply::NotFound)
    );
}

/// A pager at its first page: it is waited for, but not for ever.
#[test]
fn a_follower_that_does_not_read_keeps_no_name() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let first = launched(service.client().launch(launch("counting", &["200000"])));
    let mut operator = service.operator();
    operator.send(read("counting-one", None, true)).unwrap();
    assert!(matches!(operator.reply().reply, Reply::Chunk { .. }));
    first.process().signal(Signal::TERM);
    holds("the first has ended", || {
        Process::find(first.pid).is_none_or(|process| !process.is_alive())
    });
    let second = launched(service.client().launch(launch("counting", &["200000"])));
    assert_ne!(first.container, second.container);
    assert!(service.operator().is_served());
}

#[test]
fn a_follower_that_goes_away_leaves_no_podman_behind() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let _ = launched(service.client().launch(launch("counting", &["20000"])));
    let mut operator = service.operator();
    operator.send(read("counting-one", Some(1), true)).unwrap();
    let podman = portcullis_tests::until("somebody reads", || {
        let reads = |process: &Process| process.arguments().contains(&"--follow".to_owned());
        service.launcher().children().into_iter().find(reads)
    });
    drop(operator);
    holds("it is gone", || !podman.is_alive());
    assert!(service.operator().is_served());
}
