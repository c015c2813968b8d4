//! Lines: what an agent leaves in a directory instead of sending it, with the scripts of the field and with our own
//! client; and what may be wrong with such a directory.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod crash;
mod disk;
mod field;
mod file;
mod hostile;
mod limits;
mod lines;
mod lock;
mod order;
mod outcomes;
mod reload;
mod storm;
mod transports;
mod triggers;
mod watches;

use portcullis_tests::{Agent, Audit, Host, Service, Spool, holds, until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What most of these tests launch, by lines and by datagrams.
const SLEEP: &str = r#"
[[launch]]
rule = "sleep"
command = "sleep"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }]
[launch.container]
name = "sleep-{seconds}"
user = "0:0"
"#;

/// Another command of the same agent, with a spool of its own.
const NAP: &str = r#"
[[launch]]
rule = "nap"
command = "nap"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }]
[launch.container]
name = "nap-{seconds}"
user = "0:0"
"#;

/// An agent with one spool, for `sleep`.
fn with_spool<'h>(host: &'h Host, spool: &Spool) -> Agent<'h> {
    host.agent("blue", &format!("{SLEEP}{}", spool.table()))
}

/// An agent with those rules and spools.
fn with_spools<'h>(host: &'h Host, rules: &[&str], spools: &[&Spool]) -> Agent<'h> {
    let tables: String = spools.iter().map(|spool| spool.table()).collect();
    host.agent("blue", &(rules.concat() + &tables))
}

/// A line that asks for `sleep SECONDS` or `nap SECONDS` in no namespace.
fn line(seconds: usize) -> String {
    format!("'' {seconds}")
}

/// Waits for a record with that verdict about a line whose container has, or would have, that name.
#[track_caller]
fn recorded(service: &Service, spool: &Spool, verdict: &str, name: &str) -> Value {
    until(&format!("{name} is {verdict}"), || {
        let audit = service.audit();
        let records = audit.of_lines(spool.dir(), verdict);
        let record = records.into_iter().find(|r| r["name"] == name)?;
        Some(record.clone())
    })
}

/// Waits until a line has launched that container, which must run then.
#[track_caller]
fn launched(service: &Service, spool: &Spool, name: &str) {
    let record = recorded(service, spool, "launched", name);
    let pid = record["pid"].as_i64().unwrap();
    let process = portcullis_tests::Process::find(pid.try_into().unwrap());
    assert!(process.is_some(), "{record}");
}

/// Waits until a line has launched that container, or found it launched: by a try that was thought to have failed.
#[track_caller]
fn launched_or_found(service: &Service, spool: &Spool, name: &str) {
    until(&format!("{name} is there"), || {
        let audit = service.audit();
        let mut records = audit.of_lines(spool.dir(), "launched");
        records.extend(audit.of_lines(spool.dir(), "reused"));
        records.iter().any(|r| r["name"] == name).then_some(())
    });
}

/// Waits for a record of a line that was denied for that reason, with that text somewhere in it.
#[track_caller]
fn denied(service: &Service, spool: &Spool, reason: &str, text: &str) -> Value {
    until(&format!("a line is denied: {reason}, {text}"), || {
        let audit = service.audit();
        let records = audit.of_lines(spool.dir(), "denied").into_iter();
        let mut ours = records.filter(|r| r["reason"] == reason);
        ours.find(|r| r.to_string().contains(text)).cloned()
    })
}

/// Waits until the log says of the spool that something is wrong with it, with that text.
#[track_caller]
fn complained(service: &Service, spool: &Spool, text: &str) {
    until(&format!("an error of the spool, {text}"), || {
        let errors = service.audit().errors_of(spool.dir());
        errors
            .iter()
            .any(|error| error.contains(text))
            .then_some(())
    });
}

/// Waits until all lines are taken, as is told of them: not by the look of every minute. What comes after that may take
/// longer.
#[track_caller]
fn is_taken_at_once(spool: &Spool) {
    let begin = Instant::now();
    holds("they are taken", || spool.content().is_empty());
    assert!(begin.elapsed() < Duration::from_secs(30));
}

/// The threads that take lines, be it that they wait or that they have not ended yet: their directories under `/proc`.
fn takers(service: &Service) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(service.launcher().file("task")).unwrap();
    let tasks = tasks.flatten().map(|task| task.path());
    let name = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    tasks.filter(|task| name(task).trim() == "taker").collect()
}

/// How many lines came with each take from that spool.
fn takes(audit: &Audit, spool: &Spool) -> Vec<u64> {
    let takes = audit.with("message", "lines were taken").into_iter();
    takes
        .filter(|r| r["spool"].as_str().map(Path::new) == Some(spool.dir()))
        .map(|r| r["lines"].as_u64().unwrap())
        .collect()
}

/// How many lines of that spool have launched something before the one that launched that container, whatever it came by.
fn launched_before(audit: &Audit, spool: &Spool, name: &str) -> usize {
    let launched = audit.with("verdict", "launched");
    let at = launched.iter().position(|r| r["name"] == name).unwrap();
    let of_spool = |r: &&&Value| r["spool"].as_str().map(Path::new) == Some(spool.dir());
    launched[..at].iter().filter(of_spool).count()
}

/// The names that lines of that spool have launched, in the order of the records.
fn names(audit: &Audit, spool: &Spool) -> Vec<String> {
    let launched = audit.of_lines(spool.dir(), "launched").into_iter();
    launched
        .map(|record| record["name"].as_str().unwrap().to_owned())
        .collect()
}
