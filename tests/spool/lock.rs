//! The lock: the launcher has it for a moment, and whoever keeps it keeps his own lines waiting and nobody else's.

use crate::{NAP, SLEEP, complained, launched, line, with_spool, with_spools};
use portcullis_tests::{Host, Spool, holds};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn a_lock_that_is_never_let_go_stops_one_spool_is_told_and_costs_no_line() {
    let host = Host::new();
    let (sleeps, naps) = (Spool::new(&host, "sleep"), Spool::new(&host, "nap"));
    let agent = with_spools(&host, &[SLEEP, NAP], &[&sleeps, &naps]);
    let held = sleeps.hold();
    sleeps.append_unlocked(b"'' 1001\n");
    let service = agent.start();
    sleeps.touch();
    // Not even for a moment of waiting.
    for seconds in 2001..2004 {
        naps.write(&line(seconds));
        launched(&service, &naps, &format!("nap-{seconds}"));
        assert!(service.operator().is_served() && service.client().is_served());
    }
    complained(&service, &sleeps, "lock");
    let problem = format!(
        "STATUS=a spool cannot be taken from: the lock {}",
        sleeps.lock().display()
    );
    service.wait_for_notification(&problem);
    assert_eq!(sleeps.content(), "'' 1001\n");
    sleeps.append_unlocked(b"'' 1002\n");
    drop(held);
    launched(&service, &sleeps, "sleep-1001");
    launched(&service, &sleeps, "sleep-1002");
    sleeps.wait_until_done(&agent);
}

/// In the field it was held until everything was launched, and wrappers gave up after 10 s.
#[test]
fn while_lines_are_launched_writers_have_the_lock() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    host.engine().hang("run", "");
    spool.write(&line(1001));
    holds("podman is called", || {
        !host.engine().calls().runs().is_empty()
    });
    assert_eq!(spool.content(), "", "taken");
    // But for the moment of another look.
    holds("writers have the lock", || {
        let lock = File::open(spool.lock()).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    spool.write(&line(1002));
    holds("it is taken", || spool.content().is_empty());
    host.engine().release("run");
    launched(&service, &spool, "sleep-1001");
    launched(&service, &spool, "sleep-1002");
}

#[test]
fn a_lock_that_is_not_there_is_made_for_everybody() {
    let host = Host::new();
    let lock = host.path().join("locks/sleep.lock");
    fs::create_dir(lock.parent().unwrap()).unwrap();
    let spool = Spool::new(&host, "sleep").with_lock(&lock);
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    holds("it is made", || lock.exists());
    holds("anybody may lock it", || {
        fs::metadata(&lock).unwrap().permissions().mode() & 0o777 == 0o666
    });
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    assert!(!spool.dir().join("lock").exists());
}

/// Writers that come now lock the new one, and so has to who takes.
#[test]
fn a_lock_that_was_made_anew_while_it_was_waited_for_is_waited_for_again() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let old = spool.hold();
    let service = agent.start();
    let number = format!(" {} ", service.launcher().pid);
    let inode = |lock: &File| format!(":{} ", lock.metadata().unwrap().ino());
    let is_waited_for = |lock: &File| {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let (number, inode) = (number.clone(), inode(lock));
        let mut waiting = locks.lines().filter(|l| l.contains("->"));
        waiting.any(|l| l.contains(&number) && l.contains(&inode))
    };
    holds("the lock is waited for", || is_waited_for(&old));
    fs::remove_file(spool.lock()).unwrap();
    let new = spool.hold();
    spool.append_unlocked(b"'' 1001\n'' 10");
    drop(old);
    holds("the new one is waited for", || is_waited_for(&new));
    spool.append_unlocked(b"02\n");
    drop(new);
    for seconds in [1001, 1002] {
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
    spool.wait_until_done(&agent);
    assert!(service.audit().of_lines(spool.dir(), "denied").is_empty());
}
