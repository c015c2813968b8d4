//! A hundred lines at once against what hosts' own scripts do: one `podman run` after the other.

use crate::marks::{Marks, rules};
use crate::report::Report;
use portcullis_tests::{Agent, Host, Service, holds};
use portcullis_wire::line;
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

const LINES: usize = 100;
/// How large the [`Disk`] is, in bytes, of which the most is a hole for good.
const DISK: u64 = 4 << 30;
/// Where in its directory it is mounted: in one letter, as podman takes no more than 50 for its runroot.
const MOUNTED: &str = "m";
/// How often all of [`ORDERS`] are gone through: single rounds differ by a tenth.
const TIMES: usize = 2;
/// In what order the rounds take the three ways: in every one there is, as what one leaves behind in the kernel and in the
/// store can slow down the next one.
const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [2, 1, 0],
    [1, 2, 0],
    [0, 2, 1],
    [2, 0, 1],
    [1, 0, 2],
];

/// Measures.
pub fn measure(report: &mut Report) {
    let disk = Disk::new();
    let host = Host::beneath(&disk.path());
    let (marks_dir, spool) = (host.path().join("marks"), host.path().join("spool"));
    fs::create_dir(&spool).expect("a directory");
    let mut marks = Marks::new(&marks_dir);
    let rules = rules(
        &marks_dir.display().to_string(),
        &spool.display().to_string(),
    );
    let agent = host.agent("bench", &rules);
    let service = agent.start();
    assert!(service.client().is_served());
    write_lines(&spool, 0..1);
    marks.wait([0]);
    clear(&agent, &service, 1);
    host.engine().note_no_more();
    let at_once = std::thread::available_parallelism().map_or(8, |n| (2 * n.get()).min(8));
    // So many podmans at once by hand, and lines.
    let ways = [Some(1), Some(at_once), None];
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut launched = 1;
    let turns = [ORDERS; TIMES].into_iter().flatten().flatten();
    for (turn, way) in turns.enumerate() {
        let numbers = turn * LINES + 1..(turn + 1) * LINES + 1;
        let mut shell = ways[way].map(|n| by_hand(&host, &marks_dir, numbers.clone(), n));
        let begin = Instant::now();
        let shell = shell.as_mut().map(|shell| shell.spawn().expect("a shell"));
        if shell.is_none() {
            write_lines(&spool, numbers.clone());
            launched += LINES;
        }
        times[way].push((marks.wait(numbers) - begin).as_secs_f64());
        if let Some(mut shell) = shell {
            assert!(shell.wait().expect("its status").success());
        }
        clear(&agent, &service, launched);
    }
    let [singly, together, ours] = times;
    let faster = |times: &[f64]| -> Vec<f64> {
        let pairs = singly.iter().zip(times);
        pairs.map(|(singly, time)| singly / time).collect()
    };
    report.add("burst: 100 × podman run, one after the other", "s", &singly);
    let what = format!("burst: 100 × podman run, {at_once} at once");
    report.add(&what, "s", &together);
    report.add("burst: 100 lines at once, until all run", "s", &ours);
    // As far as podman lets anybody come: one alone keeps about one processor busy.
    let what = format!("burst: how many times as fast, podman {at_once} at once");
    report.add(&what, "", &faster(&together));
    let what = "burst: how many times as fast, 100 lines at once";
    let row = report.add(what, "", &faster(&ours));
    let met = row.median >= 2.0;
    row.goal("at least 2", met);
}

/// A file system for the host alone, ext4 with a journal as hosts have it. Without one, ext4 gives nobody the inode of a
/// file that was removed in the last minutes, and looks past all of those for each new file (`recently_deleted`): the
/// way that comes after a [`clear`] would pay for it.
#[derive(Debug)]
struct Disk(TempDir);

impl Disk {
    /// Makes it.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (image, mounted) = (dir.path().join("image"), dir.path().join(MOUNTED));
        let file = File::create(&image).expect("a file");
        file.set_len(DISK).expect("its length");
        fs::create_dir(&mounted).expect("a directory");
        must(Command::new("mkfs.ext4").arg("-q").arg(&image));
        must(
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &mounted]),
        );
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join(MOUNTED)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// Runs it, and it succeeds.
fn must(command: &mut Command) {
    let done = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {done:?}");
}

/// Writes the lines as the field's wrappers do, all under one lock.
fn write_lines(spool: &Path, numbers: Range<usize>) {
    let lines = numbers.fold(String::new(), |mut lines, n| {
        let line = line::write(None, &[n.to_string()]).expect("a line");
        let _ = writeln!(lines, "{line}");
        lines
    });
    let open = |name: &str| {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        options.open(spool.join(name)).expect("a file of the spool")
    };
    let lock = open("lock");
    flock(&lock, FlockOperation::LockExclusive).expect("the lock");
    open("processes")
        .write_all(lines.as_bytes())
        .expect("the lines");
    open("processes-timestamp")
        .write_all(b"now\n")
        .expect("the timestamp");
}

/// A shell that has podman run what the launcher has it run for each line, so many at once, and nothing around it.
fn by_hand(host: &Host, marks: &Path, numbers: Range<usize>, at_once: usize) -> Command {
    let engine = host.engine();
    let call = engine.calls().run_of("bench-0").clone();
    let own = ["--name=", "--pidfile=", "--volume="];
    let options = call.options().iter();
    let options = options.filter(|word| !own.iter().any(|o| word.starts_with(o)));
    let script = format!(
        "seq {} {} | xargs -P {at_once} -I @ {} {} run --name=hand-@ --pidfile={}/@.pid \"$@\" @",
        numbers.start,
        numbers.end - 1,
        engine.script().display(),
        engine.global_arguments().join(" "),
        host.path().display()
    );
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script, "sh"]).args(options);
    shell.arg(format!(
        "--volume={}:/marks:rw,nosuid,nodev",
        marks.display()
    ));
    shell.args(["--", &call.operands()[0]]);
    shell.env_clear().envs(engine.environment());
    shell
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root");
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell
}

/// Removes all containers, of which so many were launched since the start, and waits until the launcher knows it.
fn clear(agent: &Agent<'_>, service: &Service, launched: usize) {
    // What has just said that it runs may be in the middle of its launch.
    holds("every launch is over", || {
        service.audit().with("verdict", "launched").len() == launched
    });
    let engine = agent.host().engine();
    engine.must(&["rm", "--force", "--all", "--time=0"]);
    let records = agent.state().join("records");
    holds("the launcher knows that all have ended", || {
        let mut records = fs::read_dir(&records).expect("the records");
        records.next().is_none()
    });
}
