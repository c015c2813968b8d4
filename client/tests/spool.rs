//! The program and the files of a spool: full and read-only disks, what others put in the files' places, many writers,
//! writers that are killed, and the lockers of before Portcullis. Needs root, flock and `mount` of util-linux.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use portcullis_wire::line::{self, Line};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

const FILES: [&str; 3] = ["lock", "processes", "processes-timestamp"];

/// A spool in a directory of its own; what is mounted on it goes with it.
struct Spool {
    dir: TempDir,
    mounted: bool,
}

impl Spool {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = false;
        Self { dir, mounted }
    }

    /// In memory: many writers do not wait for a disk.
    fn in_memory() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mounted = false;
        Self { dir, mounted }
    }

    /// On a disk of 16 KiB.
    fn small() -> Self {
        let mut spool = Self::new();
        spool.mount(&["-t", "tmpfs", "-o", "size=16k", "none"]);
        spool
    }

    fn mount(&mut self, words: &[&str]) {
        let mut mount = Command::new("mount");
        let status = mount.args(words).arg(self.dir.path()).status();
        assert!(status.unwrap().success(), "{words:?}");
        self.mounted = true;
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The program, led here.
    fn command(&self, options: &[&str], args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["run", "--netns", "n", "--spool"]);
        command.arg(self.path()).args(options).arg("dnsmasq");
        command.args(args);
        command
    }

    fn write(&self, args: &[&str]) -> Output {
        self.command(&[], args).output().unwrap()
    }

    fn lines(&self) -> String {
        fs::read_to_string(self.file("processes")).unwrap()
    }

    /// When the host was told last.
    fn stamp(&self) -> SystemTime {
        let metadata = fs::metadata(self.file("processes-timestamp"));
        metadata.unwrap().modified().unwrap()
    }

    /// As if that had been an hour ago, and gives when: the clock of files may stand still between two writes.
    fn age(&self) -> SystemTime {
        let path = self.file("processes-timestamp");
        let file = File::options().write(true).open(path).unwrap();
        let hour = Duration::from_secs(3600);
        file.set_modified(SystemTime::now() - hour).unwrap();
        self.stamp()
    }

    /// Every file, and what is in it.
    fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        };
        fs::read_dir(self.path()).unwrap().map(entry).collect()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(self.path()).status();
        }
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// It failed as a spool that could not be written does, with one line that has all of that in it.
fn assert_failed(output: &Output, needles: &[&str]) {
    assert_eq!(code(output), 125, "{}", err(output));
    assert_eq!(err(output).lines().count(), 1, "{}", err(output));
    for needle in needles {
        assert!(err(output).contains(needle), "{needle}: {}", err(output));
    }
    assert!(
        err(output).contains("nothing was written"),
        "{}",
        err(output)
    );
}

/// flock(1) as wrappers and host scripts of before Portcullis call it, with that under the lock.
fn flock(spool: &Spool, script: &str) -> Command {
    let mut command = Command::new("flock");
    command.args(["-w", "10"]).arg(spool.file("lock"));
    command
        .args(["sh", "-euc", script])
        .current_dir(spool.path());
    command
}

/// flock(1) that holds the lock until its standard input ends.
struct Holder(Child);

impl Holder {
    fn new(spool: &Spool) -> Self {
        let mut command = flock(spool, "echo; exec cat");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut held = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut held).unwrap();
        Self(child)
    }

    fn let_go(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn a_launch_becomes_one_line_that_reads_back_in_files_that_are_made() {
    let spool = Spool::new();
    let args = [
        "--no-hosts",
        "",
        "a b",
        "it's \"x\" \\",
        "$HOME *",
        "ä",
        "\t",
    ];
    let output = spool.write(&args);
    assert_eq!(
        (code(&output), output.stdout.as_slice()),
        (0, &b""[..]),
        "{}",
        err(&output)
    );
    let text = spool.lines();
    let expected = Line {
        netns: Some("n".into()),
        args: args.map(str::to_owned).to_vec(),
    };
    assert_eq!(
        line::read(text.strip_suffix('\n').unwrap().as_bytes()),
        Ok(expected)
    );
    let said = format!(
        "portcullis: dnsmasq: written to {}; the host starts it when it reads that\n",
        spool.file("processes").display()
    );
    assert_eq!(err(&output), said);
    let names: Vec<_> = spool.content().into_keys().collect();
    assert_eq!(names, FILES);
}

#[test]
fn files_are_made_for_their_owner_to_write_and_the_lock_for_everybody() {
    for (mask, modes) in [(0, [0o666, 0o644, 0o644]), (0o077, [0o666, 0o600, 0o600])] {
        let spool = Spool::new();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {mask:o}; exec \"$@\""), "sh"]);
        let client = spool.command(&[], &[]);
        shell.arg(client.get_program()).args(client.get_args());
        assert!(shell.status().unwrap().success());
        let mode = |name| fs::metadata(spool.file(name)).unwrap().mode() & 0o7777;
        assert_eq!(FILES.map(mode), modes);
    }
}

#[test]
fn json_says_where_it_was_written() {
    let spool = Spool::new();
    let output = spool.command(&["--json"], &[]).output().unwrap();
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &read["answer"]), (0, &"spooled".into()));
    assert_eq!(read["file"].as_str(), spool.file("processes").to_str());
}

#[test]
fn a_full_disk_leaves_the_file_byte_for_byte_as_it_was() {
    let spool = Spool::small();
    assert_eq!(code(&spool.write(&["first"])), 0);
    // It goes on past the end of a page, and then there are no more: a part of the line would fit.
    let long = "x".repeat(60_000);
    let before = spool.content();
    assert_failed(
        &spool.write(&[&long]),
        &["cannot write", "processes", "a part of the line"],
    );
    assert_eq!(spool.content(), before);
    // Nor does a part of it stay where another's half of a line was.
    let half = File::options().append(true).open(spool.file("processes"));
    half.unwrap().write_all(b"n half-a-line").unwrap();
    assert_failed(&spool.write(&[&long]), &["a part of the line"]);
    assert_eq!(spool.content(), before);
    // Up to the end of a page, so that nothing at all fits.
    fs::write(spool.file("processes"), "n a\n".repeat(1024)).unwrap();
    let filler = fs::write(spool.file("filler"), vec![0; 1 << 20]);
    assert_eq!(filler.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let before = spool.content();
    assert_failed(
        &spool.write(&["b"]),
        &["cannot write", "No space left on device"],
    );
    assert_eq!(spool.content(), before);
    fs::remove_file(spool.file("filler")).unwrap();
    assert_eq!(code(&spool.write(&["b"])), 0);
    assert!(spool.lines().ends_with("n a\nn b\n"));
}

#[test]
fn a_full_disk_without_the_files_is_refused_before_a_line_is_written() {
    let mut spool = Spool::new();
    // Room for the directory, and the lock.
    spool.mount(&["-t", "tmpfs", "-o", "size=16k,nr_inodes=2", "none"]);
    assert_failed(
        &spool.write(&["a"]),
        &["cannot make", "processes: No space left"],
    );
    let names: Vec<_> = spool.content().into_keys().collect();
    assert_eq!(names, ["lock"]);
    let mut spool = Spool::new();
    // For the lines, too, but not for the timestamp.
    spool.mount(&["-t", "tmpfs", "-o", "size=16k,nr_inodes=3", "none"]);
    assert_failed(
        &spool.write(&["a"]),
        &["cannot make", "processes-timestamp: No space left"],
    );
    assert_eq!(spool.lines(), "");
}

#[test]
fn a_full_disk_does_not_keep_the_timestamp_from_being_set() {
    let spool = Spool::small();
    assert_eq!(code(&spool.write(&["a"])), 0);
    let _ = fs::write(spool.file("filler"), vec![0; 1 << 20]);
    let before = spool.age();
    // In the page that the file has.
    let output = spool.write(&["b"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(spool.stamp() > before);
}

#[test]
fn a_read_only_directory_is_refused_with_nothing_written() {
    for there in [true, false] {
        let mut spool = Spool::new();
        if there {
            assert_eq!(code(&spool.write(&["a"])), 0);
        }
        let before = spool.content();
        let own = spool.path().to_str().unwrap().to_owned();
        spool.mount(&["--bind", "-o", "ro", &own]);
        assert_failed(&spool.write(&["b"]), &["Read-only file system"]);
        assert_eq!(spool.content(), before);
    }
}

#[test]
fn a_directory_that_is_missing_or_none_is_refused_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let client = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["run", "--spool"]).arg(path).arg("dnsmasq");
        command.output().unwrap()
    };
    let missing = dir.path().join("missing");
    let output = client(&missing);
    assert_eq!(code(&output), 127, "{}", err(&output));
    let said = format!(
        "portcullis: dnsmasq: there is no spool at {}\n",
        missing.display()
    );
    assert_eq!(err(&output), said);
    assert!(!missing.exists());
    let file = dir.path().join("file");
    File::create(&file).unwrap();
    assert_failed(&client(&file), &["cannot open", "file: Not a directory"]);
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);
}

/// Where every user can run it, wherever this is built.
fn program_for_all() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    // Not by this process: another test's child would have it open for writing, and nobody could run it until then.
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_portcullis")).arg(place.path());
    assert!(copy.status().unwrap().success());
    place
}

fn as_nobody(program: &TempDir, spool: &Spool) -> Output {
    let client = spool.command(&[], &["b"]);
    let mut command = Command::new(program.path().join("portcullis"));
    command.args(client.get_args()).uid(65_534).gid(65_534);
    command.output().unwrap()
}

#[test]
fn whoever_may_not_write_is_refused_with_nothing_written() {
    let spool = Spool::new();
    assert_eq!(code(&spool.write(&["a"])), 0);
    fs::set_permissions(spool.path(), Permissions::from_mode(0o755)).unwrap();
    let before = spool.content();
    let program = program_for_all();
    let as_nobody = || as_nobody(&program, &spool);
    assert_failed(
        &as_nobody(),
        &["cannot open", "processes: Permission denied"],
    );
    assert_eq!(spool.content(), before);
    // A timestamp that is another's is seen before a line is written.
    let nobody = Some(65_534);
    std::os::unix::fs::chown(spool.file("processes"), nobody, nobody).unwrap();
    std::os::unix::fs::chown(spool.path(), nobody, nobody).unwrap();
    assert_failed(
        &as_nobody(),
        &["cannot open", "processes-timestamp: Permission denied"],
    );
    assert_eq!(spool.content(), before);
    // A lock that it can read is enough.
    std::os::unix::fs::chown(spool.file("processes-timestamp"), nobody, nobody).unwrap();
    fs::set_permissions(spool.file("lock"), Permissions::from_mode(0o444)).unwrap();
    let output = as_nobody();
    assert_eq!(code(&output), 0, "{}", err(&output));
}

/// A line that is never taken must not be told as a success.
#[test]
fn a_file_that_the_host_would_take_no_line_from_is_refused_and_not_made() {
    let spool = Spool::new();
    let (root, daemon, nobody) = (Some(0), Some(1), Some(65_534));
    std::os::unix::fs::chown(spool.path(), nobody, nobody).unwrap();
    fs::write(spool.file("processes"), "").unwrap();
    std::os::unix::fs::chown(spool.file("processes"), daemon, daemon).unwrap();
    let output = spool.write(&["a"]);
    assert_failed(&output, &["processes is", "user 1's", "owner, 65534"]);
    assert_eq!(spool.lines(), "");
    // The scripts of before Portcullis look at no owner.
    let legacy = spool.command(&["--legacy"], &["a"]).output().unwrap();
    assert_eq!(code(&legacy), 0, "{}", err(&legacy));
    for owner in [root, nobody] {
        std::os::unix::fs::chown(spool.file("processes"), owner, owner).unwrap();
        assert_eq!(code(&spool.write(&["a"])), 0);
    }
    assert_eq!(spool.lines(), "n a\n".repeat(3));

    // One who may write into another's directory does not leave a file there that keeps everybody out.
    let program = program_for_all();
    let other = Spool::new();
    fs::set_permissions(other.path(), Permissions::from_mode(0o777)).unwrap();
    let output = as_nobody(&program, &other);
    assert_failed(
        &output,
        &["processes is, or would be, user 65534's", "owner, 0"],
    );
    assert!(!other.file("processes").exists());
}

#[test]
fn what_is_no_regular_file_in_the_place_of_one_is_refused_and_never_waited_for() {
    let make_node = |path: &Path, kind, device| {
        mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device).unwrap();
    };
    type Put<'a> = &'a dyn Fn(&Path, &Path);
    let puts: [(&str, Put<'_>); 6] = [
        ("a symbolic link", &|path, target| {
            symlink(target, path).unwrap()
        }),
        // Into nothing: with O_CREAT it would be made there.
        ("a symbolic link", &|path, target| {
            symlink(target.with_file_name("nothing"), path).unwrap()
        }),
        ("a FIFO", &|path, _| make_node(path, FileType::Fifo, 0)),
        ("a directory", &|path, _| fs::create_dir(path).unwrap()),
        ("a socket", &|path, _| make_node(path, FileType::Socket, 0)),
        ("a device", &|path, _| {
            make_node(path, FileType::CharacterDevice, makedev(1, 3))
        }),
    ];
    for name in FILES {
        for (what, put) in puts {
            let elsewhere = tempfile::tempdir().unwrap();
            let target = elsewhere.path().join("target");
            fs::write(&target, "untouched\n").unwrap();
            let spool = Spool::new();
            for other in FILES.iter().filter(|other| **other != name) {
                fs::write(spool.file(other), "").unwrap();
            }
            put(&spool.file(name), &target);
            let client = spool.command(&[], &["a"]);
            let mut command = Command::new("timeout");
            command
                .arg("5")
                .arg(client.get_program())
                .args(client.get_args());
            let path = spool.file(name);
            let needle = format!("{} is {what}", path.display());
            assert_failed(&command.output().unwrap(), &[&needle]);
            let found = fs::symlink_metadata(&path).unwrap().file_type();
            assert!(!found.is_file(), "{name}: {what}");
            assert_eq!(found.is_fifo(), what == "a FIFO");
            if name != "processes" {
                assert_eq!(spool.lines(), "");
            }
            assert_eq!(fs::read_to_string(&target).unwrap(), "untouched\n");
            assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
        }
    }
}

#[test]
fn a_lock_that_is_held_is_waited_for_ten_seconds() {
    let spool = Spool::new();
    let holder = Holder::new(&spool);
    let begin = Instant::now();
    let output = spool.write(&["a"]);
    let waited = begin.elapsed();
    let lock = spool.file("lock").display().to_string();
    assert_failed(&output, &[&lock, "for 10 s"]);
    assert!((10..30).contains(&waited.as_secs()), "{waited:?}");
    assert!(!spool.file("processes").exists());
    holder.let_go();
    assert_eq!(code(&spool.write(&["a"])), 0);
}

#[test]
fn a_shorter_patience_holds_for_the_lock_too() {
    let spool = Spool::new();
    let _holder = Holder::new(&spool);
    let begin = Instant::now();
    let output = spool.command(&["--timeout", "1"], &["a"]).output().unwrap();
    assert_failed(&output, &["for 1 s"]);
    assert!(begin.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_lock_elsewhere_is_the_one_that_counts() {
    let spool = Spool::new();
    let elsewhere = Spool::new();
    let lock = elsewhere.file("lock");
    let holder = Holder::new(&elsewhere);
    let options = ["--timeout", "1", "--lock", lock.to_str().unwrap()];
    let output = spool.command(&options, &["a"]).output().unwrap();
    assert_failed(&output, &[options[3], "for 1 s"]);
    holder.let_go();
    let output = spool.command(&options, &["a"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(!spool.file("lock").exists());
}

#[test]
fn the_old_lockers_lock_is_ours_and_ours_is_theirs() {
    let spool = Spool::new();
    let holder = Holder::new(&spool);
    let mut client = spool
        .command(&[], &["b"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // In the kernel's own list of locks: an arrow, and the inode's number.
    let number = format!(":{} ", fs::metadata(spool.file("lock")).unwrap().ino());
    let waits = |line: &str| line.contains("->") && line.contains(&number);
    while !fs::read_to_string("/proc/locks")
        .unwrap()
        .lines()
        .any(waits)
    {
        assert!(client.try_wait().unwrap().is_none());
        thread::yield_now();
    }
    let echo = "echo \"n a\" >> processes";
    assert!(
        Command::new("sh")
            .args(["-c", echo])
            .current_dir(spool.path())
            .status()
            .unwrap()
            .success()
    );
    holder.let_go();
    assert!(client.wait().unwrap().success());
    assert_eq!(spool.lines(), "n a\nn b\n");
}

#[test]
fn the_timestamp_is_seen_to_change_once_the_line_is_there() {
    let spool = Spool::new();
    assert_eq!(code(&spool.write(&["a"])), 0);
    let before = spool.age();
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    let lines = WatchFlags::MODIFY;
    let lines = inotify::add_watch(&watch, spool.file("processes"), lines).unwrap();
    // What PathModified= of systemd.path(5) looks for, but that a file is made or written to.
    let stamp = WatchFlags::ATTRIB | WatchFlags::CLOSE_WRITE;
    let stamp = inotify::add_watch(&watch, spool.file("processes-timestamp"), stamp).unwrap();
    let output = spool.write(&["b"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut seen = vec![];
    while let Ok(event) = events.next() {
        seen.push((event.wd(), event.events()));
    }
    let expected = [
        (lines, ReadFlags::MODIFY),
        (stamp, ReadFlags::ATTRIB),
        (stamp, ReadFlags::CLOSE_WRITE),
    ];
    assert_eq!(seen, expected);
    assert!(spool.stamp() > before);
}

/// What is there beside the lines that are whole: nothing, or half of one.
fn assert_whole(text: &str, is_line: impl Fn(&str) -> bool) -> &str {
    let (whole, half) = text.rsplit_once('\n').unwrap_or(("", text));
    for line in whole.lines() {
        assert!(is_line(line), "{} bytes", line.len());
    }
    half
}

#[test]
fn sixteen_writers_an_old_wrapper_and_an_old_host_script_lose_and_break_nothing() {
    const WRITERS: usize = 16;
    const LINES: usize = 200;
    let spool = Spool::in_memory();
    assert!(flock(&spool, ": > processes").status().unwrap().success());
    let take = || flock(&spool, "cat processes >> taken; : > processes");
    thread::scope(|scope| {
        let writer = |writer: usize| {
            let spool = &spool;
            move || {
                for at in 0..LINES {
                    // Across pages, too.
                    let rest = "x".repeat(at * 37);
                    let output = spool.write(&[&format!("{writer}"), &format!("{at}"), &rest]);
                    assert_eq!(code(&output), 0, "{}", err(&output));
                }
            }
        };
        let old = || {
            for at in 0..LINES {
                let script = format!(
                    "echo \"n {WRITERS} {at} old\" >> processes; date > processes-timestamp"
                );
                assert!(flock(&spool, &script).status().unwrap().success());
            }
        };
        let mut threads: Vec<_> = (0..WRITERS).map(|at| scope.spawn(writer(at))).collect();
        threads.push(scope.spawn(old));
        while threads.iter().any(|thread| !thread.is_finished()) {
            assert!(take().status().unwrap().success());
        }
    });
    assert!(take().status().unwrap().success());
    let text = fs::read_to_string(spool.file("taken")).unwrap();
    // Of each writer all, in its order.
    let mut next = [0; WRITERS + 1];
    for text in text.lines() {
        let line = line::read(text.as_bytes()).unwrap();
        let writer: usize = line.args[0].parse().unwrap();
        let at: usize = line.args[1].parse().unwrap();
        assert_eq!(at, next[writer], "of writer {writer}");
        let rest = if writer == WRITERS {
            "old".into()
        } else {
            "x".repeat(at * 37)
        };
        assert_eq!(
            (line.netns.as_deref(), &line.args[2..]),
            (Some("n"), &[rest][..])
        );
        next[writer] += 1;
    }
    assert_eq!(next, [LINES; WRITERS + 1]);
}

#[test]
fn writers_that_are_killed_leave_whole_lines_and_at_most_one_half() {
    let spool = Spool::in_memory();
    let rest = "x".repeat(60_000);
    let expected = format!("n {rest}");
    let is_line = |line: &str| line == expected;
    let begin = Instant::now();
    assert_eq!(code(&spool.write(&[&rest])), 0);
    let mut usual = begin.elapsed();
    let (mut killed, mut ended) = (0, 0);
    let mut rounds = 0;
    while rounds < 400 || killed <= 20 || ended <= 20 {
        assert!(rounds < 4000, "{killed} killed, {ended} ended");
        let mut client = spool.command(&[], &[&rest]);
        let mut client = client.stderr(Stdio::null()).spawn().unwrap();
        // When it is killed is the point here: all over its life, and a while after it, short and long in turn.
        thread::sleep(usual * (rounds * 37 % 100) / 30);
        client.kill().unwrap();
        // How long it lives depends on the machine, and on what else that does now.
        if client.wait().unwrap().success() {
            ended += 1;
            usual = usual * 7 / 8;
        } else {
            killed += 1;
            usual = usual * 9 / 8;
        }
        usual = usual.max(Duration::from_micros(100));
        rounds += 1;
        let text = fs::read_to_string(spool.file("processes")).unwrap_or_default();
        let half = assert_whole(&text, is_line);
        assert!(expected.starts_with(half), "{} bytes", half.len());
        if text.len() > 1 << 20 {
            fs::write(spool.file("processes"), "").unwrap();
        }
    }
    // What the worst of them leaves, and the next one's way with it.
    let half = File::options().append(true).open(spool.file("processes"));
    half.unwrap().write_all(b"n half-a-lin").unwrap();
    assert_eq!(code(&spool.write(&[&rest])), 0);
    assert_eq!(assert_whole(&spool.lines(), is_line), "");
}

/// Whoever comes now locks the new one.
#[test]
fn a_lock_that_was_made_anew_while_it_was_waited_for_is_waited_for_again() {
    let spool = Spool::new();
    let old = Holder::new(&spool);
    let waits = |number: u64| {
        let number = format!(":{number} ");
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let mut waiting = locks.lines().filter(|line| line.contains("->"));
        waiting.any(|line| line.contains(&number))
    };
    let inode = || fs::metadata(spool.file("lock")).unwrap().ino();
    let wait_until_it_waits = || {
        let begin = Instant::now();
        while !waits(inode()) {
            assert!(begin.elapsed() < Duration::from_secs(8), "it does not wait");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let mut client = spool.command(&[], &["b"]);
    let mut client = client.stderr(Stdio::null()).spawn().unwrap();
    wait_until_it_waits();
    fs::remove_file(spool.file("lock")).unwrap();
    let new = Holder::new(&spool);
    old.let_go();
    wait_until_it_waits();
    assert!(!spool.file("processes").exists());
    new.let_go();
    assert!(client.wait().unwrap().success());
    assert_eq!(spool.lines(), "n b\n");
}
