//! Many launches at once.

use portcullis_tests::{Agent, Host, IMAGE, SLEEP, holds, launch, launched};
use portcullis_wire::{Body, Reason, Reply, State};
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

/// The head that allows as many launches as these tests make.
const LIMITS: &str = "\n[limits]\nrunning = 1000\nlaunches = \"10000/s\"\nin_flight = 512\n";

fn agent(host: &Host) -> Agent<'_> {
    host.agent("blue", &format!("{LIMITS}{SLEEP}"))
}

/// The agent's side containers as the operator's socket lists them: name to ID, state and pid.
fn listed(service: &portcullis_tests::Service) -> BTreeMap<String, (String, State, u32)> {
    let mut operator = service.operator();
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let body = Body::List {
            all: true,
            after: after.take(),
        };
        let Reply::Containers { items, more } = operator.call(body) else {
            panic!("no list")
        };
        for item in items {
            after = Some(item.name.clone());
            let old = all.insert(item.name, (item.container, item.state, item.pid));
            assert_eq!(old, None, "a name is listed once");
        }
        if !more {
            return all;
        }
    }
}

/// The launcher's table and podman's own are the same.
#[track_caller]
fn tables_agree(host: &Host, service: &portcullis_tests::Service, foreign: &[&str]) {
    let ours = listed(service);
    let mut theirs = BTreeMap::new();
    for container in host.engine().containers() {
        if !foreign.contains(&container.name.as_str()) {
            assert_eq!(container.state, "running", "{}", container.name);
            let pid = u32::try_from(container.pid).unwrap();
            theirs.insert(container.name, (container.id, State::Running, pid));
        }
    }
    assert_eq!(ours, theirs);
}

#[test]
fn invariant_6_the_same_name_32_times_at_once_is_one_container_and_32_true_answers() {
    let host = Host::new();
    let agent = agent(&host);
    let service = agent.start();
    let answers: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| {
                    launched(agent.client().launch_patiently(&launch("sleep", &["1000"])))
                })
            })
            .collect();
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    });
    let containers = host.engine().containers();
    assert_eq!(containers.len(), 1);
    for answer in &answers {
        assert_eq!(answer.container, containers[0].id);
        assert_eq!(answer.pid, containers[0].pid);
        assert_eq!(answer.name, "sleep-1000");
    }
    assert_eq!(
        answers.iter().filter(|a| !a.reused).count(),
        1,
        "one of them started it"
    );
    assert_eq!(host.engine().calls().runs().len(), 1);
    tables_agree(&host, &service, &[]);
}

#[test]
fn two_hundred_launches_by_16_clients_at_once_run_and_the_tables_agree() {
    let host = Host::new();
    let agent = agent(&host);
    let service = agent.start();
    let ids: BTreeSet<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let agent = &agent;
                scope.spawn(move || {
                    let mut connection = agent.client();
                    (0..200)
                        .filter(|number| number % 16 == client)
                        .map(|number| {
                            let seconds = (1000 + number).to_string();
                            let request = launch("sleep", &[&seconds]);
                            let answer = launched(connection.launch_patiently(&request));
                            assert!(!answer.reused);
                            assert_eq!(answer.name, format!("sleep-{seconds}"));
                            answer.container
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        clients
            .into_iter()
            .flat_map(|c| c.join().unwrap())
            .collect()
    });
    let containers = host.engine().containers();
    assert_eq!((ids.len(), containers.len()), (200, 200));
    for container in &containers {
        assert_eq!(container.state, "running");
        assert!(ids.contains(&container.id));
        let seconds = container.name.trim_start_matches("sleep-");
        assert_eq!(container.process().arguments(), ["/bin/sleep", seconds]);
    }
    tables_agree(&host, &service, &[]);
}

#[test]
fn two_hundred_launches_while_somebody_else_holds_one_of_the_names() {
    let host = Host::new();
    let agent = agent(&host);
    let fixed = [
        "run",
        "--detach",
        "--name=sleep-1007",
        "--network=none",
        "--pull=never",
    ];
    host.engine()
        .must(&[&fixed[..], &[IMAGE, "/bin/sleep", "5000"]].concat());
    let foreign = host.engine().container("sleep-1007");
    let service = agent.start();
    let refused: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|client| {
                let agent = &agent;
                scope.spawn(move || {
                    let mut connection = agent.client();
                    let mut refused = 0;
                    // All of them also want the name that is taken.
                    let mine = (0..200).filter(|number| number % 16 == client && *number != 7);
                    for number in mine.chain([7]) {
                        let request = launch("sleep", &[&(1000 + number).to_string()]);
                        match connection.launch_patiently(&request) {
                            Reply::Launched { .. } => assert_ne!(number, 7),
                            Reply::Denied { reason, .. } => {
                                assert_eq!((reason, number), (Reason::Name, 7));
                                refused += 1;
                            }
                            Reply::Failed(failure) => {
                                assert_eq!((failure.reason, number), (Reason::Name, 7));
                                refused += 1;
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    refused
                })
            })
            .collect();
        clients.into_iter().map(|c| c.join().unwrap()).sum()
    });
    assert_eq!(refused, 16);
    let still = host.engine().container("sleep-1007");
    assert_eq!(
        (still.id, still.pid),
        (foreign.id, foreign.pid),
        "left alone"
    );
    assert_eq!(host.engine().containers().len(), 200);
    tables_agree(&host, &service, &["sleep-1007"]);
}

#[test]
fn a_repeat_of_a_start_under_way_joins_it() {
    let host = Host::new();
    let agent = agent(&host);
    let service = agent.start();
    host.engine().hang("run", "");
    let mut first = service.client();
    let mut second = service.client();
    first
        .send(Body::Launch(launch("sleep", &["1000"])))
        .unwrap();
    holds("podman is called", || {
        host.engine().calls().runs().len() == 1
    });
    second
        .send(Body::Launch(launch("sleep", &["1000"])))
        .unwrap();
    assert!(second.is_served(), "the broker has read it");
    host.engine().release("run");
    let (first, second) = (
        launched(first.reply().reply),
        launched(second.reply().reply),
    );
    assert_eq!(
        (&first.container, first.pid),
        (&second.container, second.pid)
    );
    assert_eq!(host.engine().calls().runs().len(), 1);
}
