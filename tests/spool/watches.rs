//! The kernel counts what watches a directory by user: a container's uid 0 that has no user namespace can use up all that
//! there is for root.

use crate::{launched, line, with_spool};
use portcullis_tests::{Host, Spool, holds};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// Each test here takes what the other one needs.
static ALONE: Mutex<()> = Mutex::new(());

/// All inotify instances that uid 0 may still have.
fn use_up_instances() -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    while let Ok(instance) = inotify::init(CreateFlags::CLOEXEC) {
        taken.push(instance);
        assert!(taken.len() < 100_000, "there is no limit to be reached");
    }
    taken
}

/// All watches, with few instances.
fn use_up_watches(host: &Host) -> Vec<OwnedFd> {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let instances = 32;
    let dir = host.path().join("watched");
    fs::create_dir(&dir).unwrap();
    let files: Vec<_> = (0..=limit / instances)
        .map(|number| dir.join(number.to_string()))
        .collect();
    for file in &files {
        File::create(file).unwrap();
    }
    let mut taken = Vec::new();
    for _ in 0..instances {
        let instance = inotify::init(CreateFlags::CLOEXEC).unwrap();
        for file in &files {
            if inotify::add_watch(&instance, file, WatchFlags::DELETE_SELF).is_err() {
                taken.push(instance);
                return taken;
            }
        }
        taken.push(instance);
    }
    panic!("there is no limit to be reached");
}

/// A line is served while that is used up, and the operator is told.
#[track_caller]
fn lines_are_served(use_up: impl FnOnce(&Host) -> Vec<OwnedFd>) {
    let _alone = ALONE.lock();
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let taken = use_up(&host);
    let service = agent.start();
    holds("the launcher says that it looks by time", || {
        let log = fs::read_to_string(agent.log()).unwrap_or_default();
        log.contains("cannot watch spool")
    });
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    let unwatched = |number: u8| {
        let line = format!("portcullis_spools_unwatched{{agent=\"blue\"}} {number}\n");
        service.metrics().contains(&line)
    };
    assert!(unwatched(1));
    drop(taken);
    holds("the spool is watched again", || unwatched(0));
    spool.wait_until_done(&agent);
}

#[test]
fn used_up_inotify_instances_leave_lines_served() {
    lines_are_served(|_| use_up_instances());
}

#[test]
fn used_up_inotify_watches_leave_lines_served() {
    lines_are_served(use_up_watches);
}
