//! SIGKILL to the launcher, the broker, and both, in the middle of 50 launches.

use portcullis_tests::{
    Agent, Host, Launched, Process, SLEEP, Service, holds, launch, launched, until,
};
use portcullis_wire::{Body, Launch, Reply, State};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const LIMITS: &str = r#"
[limits]
running = 1000
launches = "10000/s"
in_flight = 512
"#;

const LAUNCHES: usize = 50;

#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Launcher,
    Broker,
    Both,
}

/// Asks as the real client does: a connection that ends before the answer is made again, and the request repeated.
fn launch_through_crashes(agent: &Agent, request: &Launch) -> Launched {
    until("an answer", || {
        let mut client = agent.client();
        loop {
            let id = client.send(Body::Launch(request.clone())).ok()?;
            match client.receive().ok()?? {
                response if response.id != id => panic!("{response:?}"),
                response => match response.reply {
                    Reply::Busy { .. } => thread::sleep(Duration::from_millis(20)),
                    reply => return Some(launched(reply)),
                },
            }
        }
    })
}

fn running(agent: &Agent) -> BTreeMap<String, (String, i32)> {
    let containers = agent.host().engine().containers().into_iter();
    containers
        .filter(|c| c.state == "running")
        .map(|c| (c.name, (c.id, c.pid)))
        .collect()
}

fn crash(victim: Victim) {
    let host = Host::new();
    let agent = host.agent("blue", &[LIMITS, SLEEP].concat());
    let service = agent.start();
    // These ran before.
    let mut before = vec![];
    for seconds in ["9001", "9002", "9003"] {
        let answer = launched(service.client().launch(launch("sleep", &[seconds])));
        let conmon = host.engine().conmon(&answer.container);
        before.push((answer.process(), conmon));
    }
    let answered = AtomicUsize::new(0);
    let service = Mutex::new(Some(service));
    let answers: Vec<Launched> = thread::scope(|scope| {
        let clients: Vec<_> = (0..5)
            .map(|client| {
                let (agent, answered) = (&agent, &answered);
                scope.spawn(move || {
                    (0..LAUNCHES)
                        .filter(|n| n % 5 == client)
                        .map(|n| {
                            let request = launch("sleep", &[&(1000 + n).to_string()]);
                            let answer = launch_through_crashes(agent, &request);
                            // It is true at the moment it is said.
                            assert!(Process::find(answer.pid).is_some(), "{answer:?}");
                            answered.fetch_add(1, SeqCst);
                            answer
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        // Three times, at points that differ.
        for after in [3, 17, 33] {
            holds("some are answered", || answered.load(SeqCst) >= after);
            let mut guard = service.lock().unwrap();
            if victim == Victim::Broker {
                let broker = guard.as_ref().unwrap().broker();
                broker.signal(Signal::KILL);
                holds("the broker is gone", || !broker.is_alive());
            } else {
                let old = guard.take().unwrap();
                if victim == Victim::Both {
                    old.broker().signal(Signal::KILL);
                }
                old.kill();
                *guard = Some(agent.start());
            }
        }
        clients
            .into_iter()
            .flat_map(|c| c.join().unwrap())
            .collect()
    });
    assert_eq!(answers.len(), LAUNCHES);
    let service = service.into_inner().unwrap().unwrap();
    // Every one that was answered runs, under the ID and pid that were said; none twice, nothing else.
    let running = running(&agent);
    for answer in &answers {
        assert_eq!(
            running.get(&answer.name),
            Some(&(answer.container.clone(), answer.pid))
        );
    }
    holds("nothing is left in another state", || {
        let all = host.engine().containers();
        all.len() == LAUNCHES + before.len() && all.iter().all(|c| c.state == "running")
    });
    for (process, conmon) in before {
        assert!(
            process.is_alive() && conmon.is_alive(),
            "those that ran before still run"
        );
    }
    nothing_is_stuck(&service);
    // Each name can be asked for again and is the one that runs.
    for answer in &answers {
        let seconds = answer.name.trim_start_matches("sleep-");
        let again = launched(
            service
                .client()
                .launch_patiently(&launch("sleep", &[seconds])),
        );
        assert!(again.reused);
        assert_eq!(
            (&again.container, again.pid),
            (&answer.container, answer.pid)
        );
    }
}

fn nothing_is_stuck(service: &Service) {
    holds("every container is known to run", || {
        let items = service.list(true);
        !items.is_empty() && items.iter().all(|item| item.state == State::Running)
    });
}

#[test]
fn invariant_7_the_launcher_killed_during_50_launches_loses_and_doubles_nothing() {
    crash(Victim::Launcher);
}

#[test]
fn invariant_7_the_broker_killed_during_50_launches_loses_and_doubles_nothing() {
    crash(Victim::Broker);
}

#[test]
fn invariant_7_both_killed_during_50_launches_lose_and_double_nothing() {
    crash(Victim::Both);
}

#[test]
fn invariant_7_a_stop_leaves_every_side_container_and_its_conmon_running() {
    let host = Host::new();
    let agent = host.agent("blue", &[LIMITS, SLEEP].concat());
    let service = agent.start();
    let answer = launched(service.client().launch(launch("sleep", &["1000"])));
    let process = answer.process();
    let conmon = host.engine().conmon(&answer.container);
    assert!(service.stop().success());
    assert!(process.is_alive() && conmon.is_alive());
    let service = agent.start();
    let again = launched(service.client().launch(launch("sleep", &["1000"])));
    assert!(again.reused && process.is_alive() && conmon.is_alive());
    assert_eq!((again.container, again.pid), (answer.container, answer.pid));
}

#[test]
fn invariant_7_a_launch_under_way_when_the_launcher_is_killed_is_found_again() {
    let host = Host::new();
    let agent = host.agent("blue", &[LIMITS, SLEEP].concat());
    let service = agent.start();
    host.engine().hang("run", "--name=sleep-1000");
    let mut client = service.client();
    client
        .send(Body::Launch(launch("sleep", &["1000"])))
        .unwrap();
    holds("podman is called", || {
        host.engine().calls().runs().len() == 1
    });
    service.kill();
    assert_eq!(
        client.receive().ok().flatten(),
        None,
        "no answer rather than a false one"
    );
    // The old podman lives and holds the name; the next launcher starts no second one.
    let service = agent.start();
    let mut client = service.client();
    client
        .send(Body::Launch(launch("sleep", &["1000"])))
        .unwrap();
    let _ = launched(service.client().launch(launch("sleep", &["2000"])));
    assert_eq!(host.engine().calls().runs_of("sleep-1000").len(), 1);
    host.engine().release("run");
    let answer = match client.reply().reply {
        Reply::Busy { .. } | Reply::Failed(_) => {
            launch_through_crashes(&agent, &launch("sleep", &["1000"]))
        }
        reply => launched(reply),
    };
    assert_eq!(
        host.engine().calls().runs_of("sleep-1000").len(),
        1,
        "found, not doubled"
    );
    assert_eq!(host.engine().container("sleep-1000").id, answer.container);
    nothing_is_stuck(&service);
}
