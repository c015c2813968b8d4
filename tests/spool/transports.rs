//! Lines and datagrams: one table, one decision, and what is asked of the one and not of the other.

use crate::{SLEEP, denied, launched, line, names, with_spool, with_spools};
use portcullis_tests::{Host, Spool, holds, launch};
use portcullis_wire::Reason;
use std::thread;
use std::time::Instant;

#[test]
fn the_same_name_by_both_at_once_is_one_container() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    let answers: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| spool.write(&line(1001))))
            .collect();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let request = launch("sleep", &["1001"]);
                    portcullis_tests::launched(agent.client().launch_patiently(&request))
                })
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    });
    spool.wait_until_done(&agent);
    let container = host.engine().container("sleep-1001");
    assert!(answers.iter().all(|a| a.container == container.id));
    assert_eq!(host.engine().calls().runs().len(), 1);
    let audit = service.audit();
    let of = |verdict| audit.of_lines(spool.dir(), verdict).len();
    assert_eq!(of("launched") + of("reused") + of("superseded"), 8);
    assert!(of("denied") + of("failed") + of("given-up") == 0);
}

/// The first one allows what the line asks for, and the second one does not.
#[test]
fn a_line_is_not_allowed_by_a_rule_that_is_not_for_lines() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let sockets = SLEEP
        .replace("spool = true\n", "")
        .replace("rule = \"sleep\"", "rule = \"sockets\"")
        .replace("name = \"sleep-", "name = \"socket-");
    let lines = SLEEP.replace(":int}", ":int(1..9)}");
    let agent = with_spools(&host, &[&sockets, &lines], &[&spool]);
    let service = agent.start();
    spool.write(&line(1001));
    let record = denied(&service, &spool, "argument", "1001");
    assert_eq!(record["rule"], "sleep");
    spool.wait_until_done(&agent);
    assert!(host.engine().calls().runs().is_empty());
    // A client may.
    let reply = service.client().launch(launch("sleep", &["1001"]));
    assert_eq!(portcullis_tests::launched(reply).name, "socket-1001");
}

#[test]
fn a_line_passes_over_a_rule_that_is_not_for_lines_to_one_that_is() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let sockets = SLEEP
        .replace("spool = true\n", "")
        .replace("rule = \"sleep\"", "rule = \"sockets\"")
        .replace("name = \"sleep-", "name = \"socket-");
    let agent = with_spools(&host, &[&sockets, SLEEP], &[&spool]);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    let reply = service.client().launch(launch("sleep", &["1001"]));
    assert_eq!(portcullis_tests::launched(reply).name, "socket-1001");
}

/// `[peer]` is about processes: it can neither let lines in nor keep them out.
#[test]
fn a_policy_that_admits_no_process_launches_lines() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let policy = format!(
        "version = 1\n[peer]\nuid = [12345]\n{SLEEP}{}",
        spool.table()
    );
    let agent = host.agent_with_policy("blue", &policy);
    let service = agent.start();
    let reply = service.client().launch(launch("sleep", &["1000"]));
    assert_eq!(portcullis_tests::denied(reply), Reason::Peer);
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
}

#[test]
fn two_spools_of_one_command_are_both_served_and_another_directory_is_not() {
    let host = Host::new();
    let first = Spool::new(&host, "sleep");
    let other = host.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let second = Spool::at("sleep", &other);
    let third = Spool::new(&host, "third");
    let agent = with_spools(&host, &[SLEEP], &[&first, &second]);
    third.write(&line(1003));
    let service = agent.start();
    first.write(&line(1001));
    second.write(&line(1002));
    launched(&service, &first, "sleep-1001");
    launched(&service, &second, "sleep-1002");
    assert_eq!(third.content(), "'' 1003\n");
}

#[test]
fn a_launcher_without_a_listener_serves_lines_alone() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    spool.write(&line(1001));
    let service = agent.start_without_listener();
    launched(&service, &spool, "sleep-1001");
    spool.write(&line(1002));
    launched(&service, &spool, "sleep-1002");
    assert!(!agent.socket().exists());
    assert!(service.operator().is_served());
    spool.wait_until_done(&agent);
    service.kill();
    spool.write(&line(1003));
    let service = agent.start_without_listener();
    launched(&service, &spool, "sleep-1003");
    assert!(service.stop().success());
}

/// systemd's path unit does not see what is written between a service's end and its own next look.
#[test]
fn a_launcher_with_a_spool_does_not_exit_for_idleness() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool).option("--idle-exit", "200ms");
    let mut service = agent.start();
    assert!(service.client().is_served());
    let begin = Instant::now();
    holds("more than the idle time passes", || {
        assert!(service.is_running());
        begin.elapsed().as_millis() > 1500
    });
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    assert_eq!(names(&service.audit(), &spool), ["sleep-1001"]);
}

#[test]
fn the_metrics_count_lines_taken_waiting_and_what_is_wrong() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let _service = agent.start();
    let value = |name: &str| -> Option<f64> {
        let mut command = std::process::Command::new(portcullis_tests::binary("portcullis"));
        command.arg("--socket").arg(agent.control_socket());
        let done = command.arg("metrics").output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with(name));
        let (_, value) = lines.next()?.rsplit_once(' ')?;
        Some(value.parse().unwrap())
    };
    host.engine().hang("run", "");
    for seconds in 1001..1004 {
        spool.write(&line(seconds));
    }
    holds("three are taken", || {
        value("portcullis_spool_lines_taken_total") == Some(3.0)
    });
    holds("three wait", || {
        value("portcullis_spool_lines_waiting") == Some(3.0)
    });
    assert_eq!(value("portcullis_spool_problems"), Some(0.0));
    host.engine().release("run");
    holds("none waits", || {
        value("portcullis_spool_lines_waiting") == Some(0.0)
    });
    std::fs::remove_file(spool.processes()).unwrap();
    std::fs::create_dir(spool.processes()).unwrap();
    spool.touch();
    holds("a problem is counted", || {
        value("portcullis_spool_problems") == Some(1.0)
    });
}
