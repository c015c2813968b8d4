//! When lines are taken: a trigger that is lost costs nothing.

use crate::{is_taken_at_once, launched, line, takers, with_spool};
use portcullis_tests::{Agent, Host, LONG, Service, Spool, holds};
use rustix::process::Signal;
use std::fs::{self, File, FileTimes};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

#[test]
fn lines_whose_trigger_came_before_the_launchers_start_are_launched() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    spool.write(&line(1001));
    spool.write(&line(1002));
    let service = agent.start();
    launched(&service, &spool, "sleep-1001");
    launched(&service, &spool, "sleep-1002");
    spool.wait_until_done(&agent);
}

#[test]
fn lines_of_no_trigger_at_all_are_found_at_the_start() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    spool.append(b"'' 1001\n");
    let service = agent.start();
    launched(&service, &spool, "sleep-1001");
    assert!(!spool.timestamp().exists());
}

#[test]
fn a_line_is_launched_when_the_timestamp_is_written() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    each_is_a_trigger(&host, &spool, || spool.touch());
}

/// Three lines that nobody is told of, each launched at once when that is done.
#[track_caller]
fn each_is_a_trigger(host: &Host, spool: &Spool, mut trigger: impl FnMut()) {
    let agent = with_spool(host, spool);
    let service = started(&agent, spool);
    for seconds in 1001..1004 {
        spool.append_unseen(format!("{}\n", line(seconds)).as_bytes());
        trigger();
        is_taken_at_once(spool);
        launched(&service, spool, &format!("sleep-{seconds}"));
    }
    spool.wait_until_done(&agent);
}

/// With an empty file of lines, which has been looked at.
fn started(agent: &Agent, spool: &Spool) -> Service {
    spool.append(b"");
    let service = agent.start();
    assert!(service.client().is_served());
    service
}

#[test]
fn a_line_without_a_trigger_is_launched_with_the_next_one() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    spool.append(b"'' 1002\n");
    spool.write(&line(1003));
    launched(&service, &spool, "sleep-1002");
    launched(&service, &spool, "sleep-1003");
}

/// Waits longer than from one look of the launcher's to the next.
#[track_caller]
fn is_found(spool: &Spool) {
    let end = Instant::now() + 2 * LONG;
    while !spool.content().is_empty() {
        assert!(Instant::now() < end, "nobody looks");
        sleep(Duration::from_millis(50));
    }
}

/// A wrapper that is killed between line and timestamp, and nobody else writes; also on a file system that tells nothing.
#[test]
fn a_line_without_a_trigger_is_launched_at_once_or_within_a_minute_or_so() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = started(&agent, &spool);
    spool.append(b"'' 1001\n");
    is_taken_at_once(&spool);
    launched(&service, &spool, "sleep-1001");
    spool.append_unseen(b"'' 1002\n");
    is_found(&spool);
    launched(&service, &spool, "sleep-1002");
}

#[test]
fn a_clock_that_is_set_back_keeps_no_line_waiting() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let mut hours = [24, 48, 1].into_iter();
    each_is_a_trigger(&host, &spool, || {
        let past = SystemTime::now() - Duration::from_secs(3600 * hours.next().unwrap());
        let timestamp = File::create(spool.timestamp()).unwrap();
        timestamp.set_modified(past).unwrap();
    });
}

#[test]
fn a_timestamp_that_is_renamed_into_place_is_a_trigger_too() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    each_is_a_trigger(&host, &spool, || {
        let new = spool.dir().join("new");
        fs::write(&new, "").unwrap();
        fs::rename(new, spool.timestamp()).unwrap();
    });
}

/// By utime(2), which does not write.
#[test]
fn a_timestamp_that_gets_another_time_is_a_trigger_too() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    spool.touch();
    each_is_a_trigger(&host, &spool, || {
        let timestamp = File::open(spool.timestamp()).unwrap();
        let (times, now) = (FileTimes::new(), SystemTime::now());
        let times = times.set_accessed(now).set_modified(now);
        timestamp.set_times(times).unwrap();
    });
}

/// The directory may be made after the service was started, and be made anew while it runs.
#[test]
fn a_directory_that_is_made_later_or_anew_is_watched() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    fs::remove_dir_all(spool.dir()).unwrap();
    let service = agent.start();
    assert!(service.client().is_served());
    crate::complained(&service, &spool, "");
    fs::create_dir(spool.dir()).unwrap();
    spool.write(&line(1001));
    is_found(&spool);
    launched(&service, &spool, "sleep-1001");

    fs::remove_dir_all(spool.dir()).unwrap();
    fs::create_dir(spool.dir()).unwrap();
    spool.write(&line(1002));
    is_taken_at_once(&spool);
    launched(&service, &spool, "sleep-1002");
}

/// The kernel keeps so many events and no more; what it has not told is looked for.
#[test]
fn a_trigger_that_is_lost_among_too_many_events_costs_nothing() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    service.launcher().signal(Signal::STOP);
    for n in 0..=most {
        // Not the same event twice, which would be one.
        fs::write(spool.dir().join(["a", "b"][n % 2]), "").unwrap();
    }
    spool.write(&line(1002));
    service.launcher().signal(Signal::CONT);
    is_taken_at_once(&spool);
    launched(&service, &spool, "sleep-1002");
}

/// A writer that signals without end, and has nothing to say.
#[test]
fn ten_thousand_triggers_keep_nobody_waiting() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    assert!(service.client().is_served());
    for round in 0..10_000 {
        spool.touch();
        if round % 100 == 0 {
            let begin = Instant::now();
            assert!(service.operator().is_served());
            assert!(begin.elapsed() < Duration::from_secs(1), "round {round}");
        }
    }
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    assert_eq!(service.audit().errors_of(spool.dir()), Vec::<String>::new());
}

/// How often the thread that takes lines has gone to sleep.
fn sleeps(service: &Service) -> String {
    let status = fs::read_to_string(takers(service)[0].join("status")).unwrap();
    let mut lines = status.lines();
    let sleeps = lines.find(|line| line.starts_with("voluntary_ctxt_switches"));
    sleeps.unwrap().to_owned()
}

/// What the launcher does to the files is told to it as well.
#[test]
fn a_look_leads_to_no_other_one_without_end() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    let (mut last, mut since) = (String::new(), Instant::now());
    holds("nobody looks any more", || {
        let now = sleeps(&service);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    });
}
