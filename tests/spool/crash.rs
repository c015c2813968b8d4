//! Launcher and broker killed between a line and its launch: it is launched once, or its denial is on record.

use crate::{SLEEP, denied, launched, line, recorded, with_spool};
use portcullis_tests::{Agent, Host, Spool, holds};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_line_that_was_taken_is_launched_by_the_next_launcher() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!(
        "\n[limits]\nlaunches = \"1/hour\"\n{SLEEP}{}",
        spool.table()
    );
    let agent = host.agent("blue", &rules);
    let mut service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    let rest: Vec<_> = (1002..1005).map(line).collect();
    spool.append(format!("{}\n", rest.join("\n")).as_bytes());
    spool.touch();
    // One for each life of the launcher's.
    for seconds in 1002..1005 {
        holds("they are taken", || spool.content().is_empty());
        is_over(&agent, seconds - 1);
        service.kill();
        service = agent.start();
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
    spool.wait_until_done(&agent);
    for seconds in 1001..1005 {
        let name = format!("sleep-{seconds}");
        assert_eq!(host.engine().calls().runs_of(&name).len(), 1, "{name}");
    }
}

/// Waits until the journal says of a line that it is over, as it does soon after its launch: a launcher that is killed
/// before takes it up again.
#[track_caller]
fn is_over(agent: &Agent, seconds: usize) {
    let waiting = format!("-{}\n", line(seconds));
    holds("it is over", || {
        let files = std::fs::read_dir(agent.state().join("spool")).unwrap();
        let mut texts = files
            .flatten()
            .flat_map(|file| std::fs::read_to_string(file.path()));
        !texts.any(|text| text.contains(&waiting))
    });
}

#[test]
fn a_line_whose_launch_was_under_way_is_found_again_and_not_doubled() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    host.engine().hang("run", "");
    spool.write(&line(1001));
    let runs = || host.engine().calls().runs_of("sleep-1001").len();
    holds("podman is called", || runs() == 1);
    assert!(agent.journal() > 0, "its outcome is not known");
    service.kill();
    let service = agent.start();
    assert!(service.operator().is_served());
    host.engine().release("run");
    recorded(&service, &spool, "reused", "sleep-1001");
    spool.wait_until_done(&agent);
    assert_eq!(runs(), 1);
    assert_eq!(host.engine().container("sleep-1001").state, "running");
}

/// Not even when what it launched has ended since, and others that were taken with it are still to be launched.
#[test]
fn a_line_that_was_launched_is_not_launched_again_by_the_next_launcher() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let mut service = agent.start();
    host.engine().hang("run", "--name=sleep-9000");
    let runs = |seconds: usize| {
        let name = format!("sleep-{seconds}");
        host.engine().calls().runs_of(&name).len()
    };
    for seconds in 1001..1004 {
        let name = format!("sleep-{seconds}");
        spool.append(format!("{}\n{}\n", line(seconds), line(9000)).as_bytes());
        spool.touch();
        launched(&service, &spool, &name);
        holds("the other one is under way", || runs(9000) == 1);
        let process = host.engine().container(&name).process();
        is_over(&agent, seconds);
        service.kill();
        process.signal(Signal::KILL);
        service = agent.start();
    }
    host.engine().release("run");
    spool.wait_until_done(&agent);
    assert!(service.operator().is_served());
    for seconds in [1001, 1002, 1003, 9000] {
        assert_eq!(runs(seconds), 1, "{seconds}");
    }
    assert_eq!(host.engine().container("sleep-9000").state, "running");
}

/// It is given to one broker at a time, and that other brokers have died over other lines is not held against it.
#[test]
fn a_line_that_a_broker_had_when_it_died_is_given_to_the_next_one() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write(&line(1000));
    launched(&service, &spool, "sleep-1000");
    for round in 0..3 {
        let (one, other) = (1001 + 2 * round, 1002 + 2 * round);
        let broker = service.broker();
        broker.signal(Signal::STOP);
        spool.append(format!("{}\n{}\n", line(one), line(other)).as_bytes());
        spool.touch();
        holds("they are taken", || spool.content().is_empty());
        assert!(
            service.operator().is_served(),
            "the broker has the first one"
        );
        assert_eq!(host.engine().calls().runs().len(), 1 + 2 * round);
        broker.signal(Signal::KILL);
        launched(&service, &spool, &format!("sleep-{one}"));
        launched(&service, &spool, &format!("sleep-{other}"));
        spool.wait_until_done(&agent);
        assert_eq!(host.engine().calls().runs().len(), 3 + 2 * round);
    }
}

#[test]
fn the_broker_killed_while_lines_are_under_way_loses_and_doubles_none() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    let launcher = service.launcher();
    let done = || {
        let audit = service.audit();
        audit.of_lines(spool.dir(), "launched").len()
    };
    for round in 0..4 {
        let first = 1001 + 5 * round;
        let lines: Vec<_> = (first..first + 5).map(line).collect();
        spool.append(format!("{}\n", lines.join("\n")).as_bytes());
        spool.touch();
        holds("some are launched", || done() > 5 * round);
        let broker = service.broker();
        broker.signal(Signal::KILL);
        holds("it is gone", || !broker.is_alive());
    }
    for seconds in 1001..1021 {
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
    spool.wait_until_done(&agent);
    assert!(launcher.is_alive());
    assert_eq!(host.engine().calls().runs().len(), 20);
    assert!(service.audit().of_lines(spool.dir(), "failed").is_empty());
}

/// What a killed machine or a broken disk leaves.
#[test]
fn a_journal_with_broken_files_in_it_keeps_no_other_line_from_being_launched() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    spool.wait_until_done(&agent);
    service.kill();
    let head = format!("{{\"command\":\"sleep\",\"dir\":{:?}}}\n", spool.dir());
    for (name, bytes) in [
        ("9001", &b""[..]),
        ("9002", &[0, 255, 10, 0]),
        ("9003.new", format!("{head}-'' 6661\n").as_bytes()),
        ("9004.taking", b""),
        ("9005.taking", format!("{head}-'' 6662").as_bytes()),
        ("of somebody else", b"'' 6663\n"),
    ] {
        std::fs::write(agent.state().join("spool").join(name), bytes).unwrap();
    }
    spool.write(&line(1002));
    let service = agent.start();
    launched(&service, &spool, "sleep-1002");
    assert!(service.operator().is_served());
    let calls = host.engine().calls();
    assert_eq!(calls.runs().len(), 2, "{calls:?}");
}

/// What an operator may do who makes room on a disk.
#[test]
fn lines_whose_journal_is_removed_are_denied_and_hold_up_no_other() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rate = "launches = \"1/hour\"";
    let rules = format!("\n[limits]\n{rate}\n{SLEEP}{}", spool.table());
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    spool.append(b"'' 1002\n'' 1003\n");
    spool.touch();
    holds("they are taken", || spool.content().is_empty());
    holds("they are all that is in the journal", || {
        let names = std::fs::read_dir(agent.state().join("spool")).unwrap();
        let names: Vec<_> = names.flatten().map(|entry| entry.path()).collect();
        let only = names.len() == 1 && names[0].extension().is_none();
        only.then(|| std::fs::remove_file(&names[0]).unwrap());
        only
    });
    let faster = agent.policy_text().replace(rate, "launches = \"100/s\"");
    agent.write_policy(&faster);
    service.reload();
    denied(
        &service,
        &spool,
        "internal",
        "it cannot be read in the journal",
    );
    spool.write(&line(1004));
    launched(&service, &spool, "sleep-1004");
    spool.wait_until_done(&agent);
    assert_eq!(service.audit().of_lines(spool.dir(), "denied").len(), 2);
    assert_eq!(host.engine().calls().runs().len(), 2);
}

/// Its name says how far a launcher came that was killed: the lines are in the journal, and may still be in their file.
fn leave_unfinished(agent: &Agent, spool: &Spool, lines: &[usize]) {
    let mut text = format!("{{\"command\":\"sleep\",\"dir\":{:?}}}\n", spool.dir());
    for seconds in lines {
        text += &format!("-{}\n", line(*seconds));
    }
    let journal = agent.state().join("spool");
    std::fs::create_dir_all(&journal).unwrap();
    std::fs::write(journal.join("7.taking"), text).unwrap();
}

#[test]
fn lines_of_a_take_that_was_not_finished_are_launched_once_be_they_still_in_their_file_or_not() {
    for left in ["'' 1001\n'' 1002\n'' 1003\n", "'' 1003\n", ""] {
        let host = Host::new();
        let spool = Spool::new(&host, "sleep");
        let agent = with_spool(&host, &spool);
        leave_unfinished(&agent, &spool, &[1001, 1002]);
        spool.append(left.as_bytes());
        let service = agent.start();
        let end = if left.is_empty() { 1003 } else { 1004 };
        for seconds in 1001..end {
            launched(&service, &spool, &format!("sleep-{seconds}"));
        }
        spool.wait_until_done(&agent);
        let again = service.audit().of_lines(spool.dir(), "reused").len();
        assert_eq!(again, 0, "{left:?}");
    }
}

/// Nobody looks at that file any more.
#[test]
fn lines_of_a_take_that_was_not_finished_are_denied_when_the_policy_has_no_such_spool() {
    let host = Host::new();
    let (spool, gone) = (Spool::new(&host, "sleep"), Spool::new(&host, "gone"));
    let agent = with_spool(&host, &spool);
    leave_unfinished(&agent, &gone, &[1001]);
    gone.append(b"'' 1001\n");
    let service = agent.start();
    denied(&service, &gone, "peer", "1001");
    spool.wait_until_done(&agent);
    assert_eq!(gone.content(), "'' 1001\n");
}

#[test]
fn what_is_in_the_journal_nobody_but_root_can_read() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let journal = agent.state().join("spool");
    std::fs::create_dir_all(&journal).unwrap();
    std::fs::set_permissions(&journal, PermissionsExt::from_mode(0o755)).unwrap();
    let _service = agent.start();
    host.engine().hang("run", "");
    spool.write(&line(1001));
    holds("podman is called", || {
        !host.engine().calls().runs().is_empty()
    });
    let files = std::fs::read_dir(&journal).unwrap();
    let files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    for path in files.iter().chain([&journal]) {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
    host.engine().release("run");
}
