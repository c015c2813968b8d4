//! Sixteen writers of both kinds and a launcher that is killed again and again: each line is launched exactly once, or
//! denied with a reason, and no writer waits.
//!
//! `PORTCULLIS_LINES` says how many lines each writes.

use portcullis_tests::{
    Agent, Host, Spool, Stop, holds, longest_wait, storm_lines, storm_patience,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, sleep};
use std::time::Duration;

const WRITERS: usize = 16;

/// Says that it was started, in a file of its own, and lives for longer than a launcher takes to come back: who ends while
/// nobody looks may be started again, as any that has ended.
const RULES: &str = r#"
[limits]
launches = "10000/s"
running = 2000
in_flight = 512

[[launch]]
rule = "storm"
command = "storm"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "echo started >>/starts/$1; exec sleep 60", "storm"]
args = [{ min = 1, pattern = "{token:word}" }]
[launch.container]
name = "storm-{token}"
user = "0:0"
mounts = [{ source = "{shared}", target = "/starts", mode = "rw" }]
log = "none"
pids = 0
"#;

/// Numbers of no pattern, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Every seventh line is one that the policy does not allow.
fn is_allowed(n: usize) -> bool {
    n % 7 != 6
}

/// Writes one line by the field's wrapper or by our client.
fn write(spool: &Spool, writer: usize, n: usize) {
    let token = format!("w{writer}-{n}");
    let word = if is_allowed(n) {
        token
    } else {
        format!("--no={token}")
    };
    let done = if (writer + n).is_multiple_of(2) {
        let wrapper = concat!(env!("CARGO_MANIFEST_DIR"), "/spool/field/wrapper.sh");
        let mut wrapper = Command::new(wrapper);
        wrapper.env("SPOOL", spool.dir()).env("LOCK", spool.lock());
        wrapper.arg(word).output().unwrap()
    } else {
        spool.client().args(["storm", &word]).output().unwrap()
    };
    assert!(done.status.success(), "{done:?}");
}

/// How many times which token was started.
fn starts(dir: &Path) -> BTreeMap<String, usize> {
    let files = fs::read_dir(dir).unwrap().flatten();
    files
        .map(|file| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let token = file.file_name().to_string_lossy().into_owned();
            (token, text.lines().count())
        })
        .collect()
}

/// Kills the launcher at points of no pattern and starts another one, until there is nothing to do; says how often.
fn kill_until_done(agent: &Agent, spool: &Spool, writing: &AtomicUsize, seed: u64) -> usize {
    let mut random = Random(seed);
    let started = || fs::read_dir(agent.host().shared()).unwrap().count();
    let is_done =
        || writing.load(SeqCst) == 0 && spool.content().is_empty() && agent.journal() == 0;
    let mut service = agent.start();
    for kills in 0.. {
        let goal = started() + usize::try_from(random.below(8)).unwrap();
        holds("more are started", || started() >= goal || is_done());
        if is_done() {
            assert!(service.is_running());
            return kills;
        }
        sleep(Duration::from_micros(random.below(300_000)));
        service.kill();
        service = agent.start();
    }
    unreachable!("there is no end to the numbers")
}

#[test]
fn of_16_writers_lines_none_is_lost_or_launched_twice_while_the_launcher_is_killed() {
    let each = storm_lines(6);
    let host = Host::new();
    let spool = Spool::new(&host, "storm");
    let agent = host.agent("blue", &format!("{RULES}{}", spool.table()));
    let seed = u64::from(std::process::id()) << 32 | 0x9e37_79b9;
    println!("seed {seed}");
    let (writing, end) = (AtomicUsize::new(WRITERS), AtomicBool::new(false));
    let (kills, wait) = thread::scope(|scope| {
        let _end = Stop::at(&end);
        for writer in 0..WRITERS {
            let (spool, writing) = (&spool, &writing);
            scope.spawn(move || {
                for n in 0..each {
                    write(spool, writer, n);
                }
                writing.fetch_sub(1, SeqCst);
            });
        }
        let probe = scope.spawn(|| longest_wait(&spool.lock(), &end));
        let kills = kill_until_done(&agent, &spool, &writing, seed);
        end.store(true, SeqCst);
        (kills, probe.join().unwrap())
    });
    println!("{kills} kills, the longest wait for the lock {wait:?}");
    assert!(kills > 0);
    assert!(wait < storm_patience(), "{wait:?}");

    let wanted: BTreeMap<String, usize> = (0..WRITERS)
        .flat_map(|writer| (0..each).map(move |n| (writer, n)))
        .filter(|(_, n)| is_allowed(*n))
        .map(|(writer, n)| (format!("w{writer}-{n}"), 1))
        .collect();
    // A launch is over when podman says so; what it has started writes when it has its turn.
    holds("all say that they were started", || {
        let starts = starts(&host.shared());
        wanted.keys().all(|token| starts.get(token) >= Some(&1))
    });
    assert_eq!(starts(&host.shared()), wanted, "each was started once");
    let audit = agent.audit();
    let records = audit.of_lines(spool.dir(), "denied");
    for writer in 0..WRITERS {
        for n in (0..each).filter(|n| !is_allowed(*n)) {
            let args = format!("'--no=w{writer}-{n}'");
            let record = records.iter().find(|r| r["args"] == args.as_str());
            let record = record.unwrap_or_else(|| panic!("no word of {args}"));
            assert_eq!(record["reason"], "argument");
        }
    }
    for verdict in ["failed", "given-up", "superseded"] {
        let records = audit.of_lines(spool.dir(), verdict);
        assert!(records.is_empty(), "{records:?}");
    }
}
