//! What an agent may do beside writing lines, and what becomes of the lines then: which of two requests for a name is the
//! newer one, who gets what of the rate, a file that cannot be emptied, a launcher that has no descriptor left.

use crate::{
    NAP, SLEEP, complained, is_taken_at_once, launched, launched_or_found, line, takers, takes,
    with_spool, with_spools,
};
use portcullis_tests::{Audit, Host, Service, Spool, holds, launch, launched as answered, until};
use portcullis_wire::{Body, Reply};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One name, whatever is asked for.
const ONE: &str = r#"
[[launch]]
rule = "one"
command = "sleep"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }]
[launch.container]
name = "one"
user = "0:0"
"#;

fn runs(host: &Host, argument: &str) -> bool {
    let arguments = host.engine().container("one").process().arguments();
    arguments.iter().any(|a| a == argument)
}

/// How many locks the launcher waits for.
fn waiting(service: &Service) -> usize {
    let number = format!(" {} ", service.launcher().pid);
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let ours = |lock: &&str| lock.contains("->") && lock.contains(&number);
    locks.lines().filter(ours).count()
}

#[test]
fn a_line_that_waited_does_not_take_the_place_of_what_a_newer_datagram_has_started() {
    let host = Host::new();
    let (spool, naps) = (Spool::new(&host, "sleep"), Spool::new(&host, "nap"));
    let rules = format!("\n[limits]\nin_flight = 2\n{ONE}");
    let agent = with_spools(&host, &[&rules, NAP], &[&spool, &naps]);
    let service = agent.start();
    host.engine().hang("run", "--name=nap-");
    naps.write(&line(3000));
    holds("the place for lines is taken", || {
        !host.engine().calls().runs_of("nap-3000").is_empty()
    });
    spool.write(&line(1001));
    holds("the line is taken", || spool.content().is_empty());
    // Its writer was told that it is done, and asks for another one only then.
    let _newer = answered(
        service
            .client()
            .launch_patiently(&launch("sleep", &["2002"])),
    );
    host.engine().release("run");
    spool.wait_until_done(&agent);
    assert!(runs(&host, "2002"));
    assert_eq!(service.audit().of_lines(spool.dir(), "superseded").len(), 1);
}

#[test]
fn a_line_of_before_the_start_does_not_take_the_place_of_what_a_datagram_has_started() {
    // On a machine that is busy enough, clients have waited for the lock as long as they do.
    let lines_came_first = (0..5).any(|_| is_taken_before_a_datagram());
    assert!(lines_came_first, "no client waits for the first look");
}

/// Has a line launched that was there before the start, and a newer datagram: says whether no broker served before the
/// line was taken, in which case the newer one has the name.
fn is_taken_before_a_datagram() -> bool {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spools(&host, &[ONE], &[&spool]);
    spool.write(&line(1001));
    let lock = spool.hold();
    let mut client = agent.client();
    let newer = launch("sleep", &["2002"]);
    client.send(Body::Launch(newer.clone())).unwrap();
    let service = agent.start();
    holds("the lock is waited for", || waiting(&service) == 1);
    // Long enough for a broker to hand the datagram on, were there one already.
    let begin = Instant::now();
    holds("the lock is held", || {
        begin.elapsed() > Duration::from_millis(200)
    });
    drop(lock);
    let _newer = answered(match client.reply().reply {
        // The line is being launched; what is newer takes its place.
        Reply::Busy { .. } => client.launch_patiently(&newer),
        reply => reply,
    });
    spool.wait_until_done(&agent);
    if said(&service.audit(), "lines were taken") > said(&service.audit(), "the broker serves") {
        return false;
    }
    assert!(runs(&host, "2002"));
    true
}

/// Where in the log that is said first.
fn said(audit: &Audit, message: &str) -> usize {
    let said = audit.lines().iter().position(|r| r["message"] == message);
    said.unwrap()
}

/// Clients are served although an agent holds the lock of a spool for ever.
#[test]
fn a_lock_that_is_held_at_the_start_keeps_no_client_waiting() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spools(&host, &[ONE], &[&spool]);
    let _lock = spool.hold();
    let service = agent.start();
    let _served = answered(
        service
            .client()
            .launch_patiently(&launch("sleep", &["2002"])),
    );
    holds("the lock is waited for", || waiting(&service) == 1);
}

/// Lines that reuse what runs cost next to nothing, and could use up a rate all by themselves.
#[test]
fn half_of_the_rate_is_left_to_datagrams() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!("\n[limits]\nlaunches = \"4/s\"\n{SLEEP}{}", spool.table());
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    let lines = vec![line(1001); 200].join("\n");
    spool.append(format!("{lines}\n").as_bytes());
    spool.touch();
    let reused = |service: &Service| service.audit().of_lines(spool.dir(), "reused").len();
    holds("lines are at their rate", || reused(&service) >= 8);
    for _ in 0..8 {
        let before = reused(&service);
        let reply = service.client().launch(launch("sleep", &["2002"]));
        assert!(matches!(reply, Reply::Launched { .. }), "{reply:?}");
        holds("another line has its turn", || reused(&service) > before);
    }
}

/// Sets a lease on the file, and keeps it until its standard input ends. Another test's child may have the file open for
/// writing until it has become another program; then there is none to be had.
const LEASE: &str = r"
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDONLY)
while True:
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        break
    except BlockingIOError:
        time.sleep(0.01)
print('leased', end='', flush=True)
sys.stdin.read()
";

#[test]
fn a_file_that_cannot_be_emptied_is_not_copied_again_and_again() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    spool.append(format!("{}\n", line(1001)).as_bytes());
    let mut python = Command::new("python3");
    let python = python.args(["-c", LEASE]).arg(spool.processes());
    let python = python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = python.spawn().unwrap();
    let mut told = [0; 6];
    holder.stdout.take().unwrap().read_exact(&mut told).unwrap();
    let service = agent.start();
    complained(&service, &spool, "cannot be opened for writing");
    assert_eq!(
        fs::read_dir(agent.state().join("spool")).unwrap().count(),
        0
    );
    assert_eq!(spool.content(), format!("{}\n", line(1001)));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    launched(&service, &spool, "sleep-1001");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().calls().runs().len(), 1);
}

#[test]
fn lines_wait_while_the_launcher_has_no_descriptor_left() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    // It has one line and does not answer, so that the others wait in the journal.
    let broker = service.broker();
    broker.signal(Signal::STOP);
    let lines: Vec<_> = (1002..1009).map(line).collect();
    spool.append(format!("{}\n", lines.join("\n")).as_bytes());
    spool.touch();
    holds("they are taken", || {
        takes(&service.audit(), &spool) == [1, 7]
    });
    let number = service.launcher().pid.to_string();
    let limit = |descriptors: &str| {
        let mut prlimit = Command::new("prlimit");
        let nofile = format!("--nofile={descriptors}:");
        let done = prlimit.args(["--pid", &number, &nofile]).status();
        assert!(done.unwrap().success());
    };
    limit("4");
    broker.signal(Signal::CONT);
    complained(&service, &spool, "a line cannot be read in the journal");
    limit("4096");
    for seconds in 1001..1009 {
        launched_or_found(&service, &spool, &format!("sleep-{seconds}"));
    }
    spool.wait_until_done(&agent);
}

#[test]
fn a_spool_that_left_the_policy_and_came_back_while_its_lock_was_held_is_watched() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let with = agent.policy_text();
    let without = with
        .replace(&spool.table(), "")
        .replace("spool = true\n", "");
    let lock = spool.hold();
    let service = agent.start();
    holds("the lock is waited for", || waiting(&service) == 1);
    for policy in [&without, &with] {
        agent.write_policy(policy);
        service.reload();
    }
    holds("it is waited for twice", || waiting(&service) == 2);
    drop(lock);
    holds("the lock is not waited for", || waiting(&service) == 0);
    // Two, as the first one may be found by a look that comes with the lock.
    for seconds in [1001, 1002] {
        spool.write(&line(seconds));
        is_taken_at_once(&spool);
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
}

#[test]
fn a_spool_that_left_the_policy_while_its_lock_was_held_is_left_alone() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let without = agent.policy_text().replace(&spool.table(), "");
    let lock = spool.hold();
    spool.append_unlocked(b"'' 1001\n");
    let service = agent.start();
    holds("the lock is waited for", || waiting(&service) == 1);
    agent.write_policy(&without.replace("spool = true\n", ""));
    service.reload();
    drop(lock);
    holds("nobody is there to take", || takers(&service).is_empty());
    assert_eq!(spool.content(), "'' 1001\n");
}

/// Its writer had the lock when the datagram was answered.
#[test]
fn a_line_that_was_written_after_a_datagram_takes_the_place_of_what_that_has_started() {
    let host = Host::new();
    let (spool, naps) = (Spool::new(&host, "sleep"), Spool::new(&host, "nap"));
    let rules = format!("\n[limits]\nin_flight = 4\n{ONE}");
    let agent = with_spools(&host, &[&rules, NAP], &[&spool, &naps]);
    let service = agent.start();
    // What came before what is remembered while any line is there.
    host.engine().hang("run", "--name=nap-");
    naps.write(&line(3000));
    holds("a line is under way", || {
        !host.engine().calls().runs_of("nap-3000").is_empty()
    });
    let lock = spool.hold();
    spool.touch();
    holds("the lock is waited for", || waiting(&service) == 1);
    let older = launch("sleep", &["2002"]);
    let _older = answered(service.client().launch_patiently(&older));
    spool.append_unlocked(b"'' 1001\n");
    drop(lock);
    launched(&service, &spool, "one");
    assert!(runs(&host, "1001"));
    host.engine().release("run");
}

/// It is older, although nobody knows of it yet when the datagram comes.
#[test]
fn a_line_that_is_being_taken_does_not_take_the_place_of_what_a_newer_datagram_has_started() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spools(&host, &[ONE], &[&spool]);
    let lock = spool.hold();
    spool.append_unlocked(format!("{}\n", line(1001)).as_bytes());
    let service = agent.start();
    holds("the lock is waited for", || waiting(&service) == 1);
    assert!(service.client().is_served());
    // The taker reads it with its first look, for as long as somebody may write to it.
    let fifo = agent.state().join("spool/7.taking");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    drop(lock);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK;
    let writer = until("lines are being taken", || {
        rustix::fs::open(&fifo, flags, Mode::empty()).ok()
    });
    let newer = launch("sleep", &["2002"]);
    let _newer = answered(service.client().launch_patiently(&newer));
    drop(writer);
    spool.wait_until_done(&agent);
    assert!(runs(&host, "2002"));
    assert_eq!(service.audit().of_lines(spool.dir(), "superseded").len(), 1);
}
