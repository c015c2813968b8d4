//! What of a spool cannot be brought about with the program alone.

use super::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::fs;
use std::sync::Barrier;
use std::time::Instant;
use tempfile::TempDir;

fn spool() -> (TempDir, Spool) {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::new(dir.path().to_owned());
    (dir, spool)
}

fn launch(word: &str) -> Launch {
    Launch {
        command: "dnsmasq".into(),
        args: vec![word.to_owned()],
        netns: Some("n".into()),
        ..Launch::default()
    }
}

fn write(spool: &Spool, word: &str) -> Result<(), SpoolError> {
    spool.write(&launch(word), PATIENCE)
}

/// Whether somebody waits for the lock in the kernel, as /proc/locks shows: an arrow, and the inode's number.
fn is_waited_for(spool: &Spool) -> bool {
    let number = format!(":{} ", rustix::fs::stat(&spool.lock).unwrap().st_ino);
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let waits = |line: &str| line.contains("->") && line.contains(&number);
    locks.lines().any(waits)
}

/// Until that is so.
fn wait_for_waiter(spool: &Spool) {
    let begin = Instant::now();
    while !is_waited_for(spool) {
        assert!(begin.elapsed() < PATIENCE, "nobody waits");
        thread::yield_now();
    }
}

fn holder(spool: &Spool) -> File {
    let file = File::create(&spool.lock).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

#[test]
fn a_commands_own_spool_is_beneath_the_spools() {
    let spool = Spool::of("dnsmasq").unwrap();
    assert_eq!(spool.dir, Path::new("/var/lib/portcullis/spool/dnsmasq"));
    assert_eq!(
        spool.lock,
        Path::new("/var/lib/portcullis/spool/dnsmasq/lock")
    );
    for command in ["", ".", "..", "/", "a/b", "/usr/sbin/dnsmasq", "../dnsmasq"] {
        assert_eq!(Spool::of(command), None, "{command}");
    }
}

#[test]
fn a_line_that_was_not_finished_is_cut_off_and_never_completed() {
    let long = "x".repeat(4095);
    let longer = "x".repeat(20_000);
    for (before, kept) in [
        (String::new(), String::new()),
        ("n a\n".into(), "n a\n".into()),
        ("n a\nn half".into(), "n a\n".into()),
        ("n half".into(), String::new()),
        ("\nn".into(), "\n".into()),
        // Around the edges of what is read at once.
        (format!("\n{long}"), "\n".into()),
        (format!("\n{long}x"), "\n".into()),
        (format!("{long}\nn"), format!("{long}\n")),
        (format!("n a\n{longer}"), "n a\n".into()),
        (format!("n {longer}\n"), format!("n {longer}\n")),
        (longer, String::new()),
    ] {
        let (_dir, spool) = spool();
        fs::write(spool.processes(), &before).unwrap();
        write(&spool, "new").unwrap();
        let after = fs::read_to_string(spool.processes()).unwrap();
        assert_eq!(after, kept + "n new\n");
    }
}

#[test]
fn a_lock_that_is_held_is_waited_for_so_long_and_no_longer() {
    let (_dir, spool) = spool();
    let held = holder(&spool);
    let begin = Instant::now();
    let error = spool
        .write(&launch("a"), Duration::from_millis(300))
        .unwrap_err();
    assert!(matches!(error, SpoolError::Held { .. }), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(!spool.processes().exists());
    // The wait that is left behind gets the lock now, and must not keep it.
    wait_for_waiter(&spool);
    drop(held);
    // It may be quicker than its own, or not.
    for _ in 0..50 {
        write(&spool, "b").unwrap();
    }
}

/// Two writers that both hold it would cut off each other's lines.
#[test]
fn a_lock_that_somebody_else_shares_is_not_to_be_had() {
    let (_dir, spool) = spool();
    let file = File::create(&spool.lock).unwrap();
    flock(&file, FlockOperation::NonBlockingLockShared).unwrap();
    let patience = Duration::from_millis(300);
    let error = spool.write(&launch("a"), patience).unwrap_err();
    assert!(matches!(error, SpoolError::Held { .. }), "{error}");
    assert!(!spool.processes().exists());
}

#[test]
fn of_those_who_make_a_file_at_once_one_makes_it_and_all_have_it() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..200 {
        let path = dir.path().join(round.to_string());
        let barrier = Barrier::new(4);
        let make = || {
            barrier.wait();
            regular(CWD, &path, &path, OFlags::RDONLY, 0o666).unwrap().1
        };
        let made = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(make));
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(made.into_iter().filter(|made| *made).count(), 1);
    }
}

#[test]
fn a_lock_that_is_let_go_of_in_time_is_taken() {
    let (_dir, spool) = spool();
    let held = holder(&spool);
    thread::scope(|scope| {
        let writing = scope.spawn(|| write(&spool, "a"));
        wait_for_waiter(&spool);
        assert!(!spool.processes().exists());
        drop(held);
        writing.join().unwrap().unwrap();
    });
    assert_eq!(fs::read_to_string(spool.processes()).unwrap(), "n a\n");
}

#[test]
fn a_timestamp_that_cannot_be_set_takes_the_line_back() {
    let (_dir, spool) = spool();
    write(&spool, "a").unwrap();
    let before = fs::read(spool.processes()).unwrap();
    let processes = File::options()
        .read(true)
        .append(true)
        .open(spool.processes())
        .unwrap();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let timestamp = open(spool.dir.join(TIMESTAMP), flags, Mode::empty()).unwrap();
    let length = before.len() as u64;
    let error = spool
        .add(&processes, &timestamp.into(), b"n b\n", length)
        .unwrap_err();
    assert!(matches!(error, SpoolError::Failed(_)), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("cannot touch") && message.contains(TIMESTAMP),
        "{message}"
    );
    assert!(message.ends_with("; nothing was written"), "{message}");
    assert_eq!(fs::read(spool.processes()).unwrap(), before);
}

/// A FIFO is written to and touched like any file, and has no disk that it could be brought to.
#[test]
fn a_line_or_a_timestamp_that_does_not_reach_the_disk_is_no_success() {
    let (dir, spool) = spool();
    let path = dir.path().join("fifo");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let open = |path| File::options().read(true).write(true).open(path).unwrap();
    fs::write(spool.processes(), "n a\n").unwrap();
    let (fifo, processes) = (open(&path), open(&spool.processes()));
    for (processes, timestamp, name) in [
        (&fifo, &processes, PROCESSES),
        (&processes, &fifo, TIMESTAMP),
    ] {
        let error = spool.append(processes, timestamp, b"n b\n").unwrap_err();
        let begin = format!("cannot sync {}: ", dir.path().join(name).display());
        assert!(error.to_string().starts_with(&begin), "{error}");
    }
}

/// Has fsync(2) fail for this thread, and no other call.
fn break_fsync() {
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let (fsync, errno) = ((libc::SYS_fsync, vec![]), libc::EIO.unsigned_abs());
    let (others, fails) = (SeccompAction::Allow, SeccompAction::Errno(errno));
    let filter = SeccompFilter::new([fsync].into(), others, fails, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn a_file_that_was_made_has_its_name_on_the_disk_before_a_line_is_written() {
    for (there, what) in [
        (&[][..], ""),
        (&[PROCESSES], ""),
        (&[TIMESTAMP], ""),
        (&[PROCESSES, TIMESTAMP], TIMESTAMP),
    ] {
        let (_dir, spool) = spool();
        for name in there {
            fs::write(spool.dir.join(name), "").unwrap();
        }
        let error = thread::scope(|scope| {
            let writing = scope.spawn(|| {
                break_fsync();
                write(&spool, "a").unwrap_err()
            });
            writing.join().unwrap().to_string()
        });
        let path = spool.processes().with_file_name(what);
        let path = path.display().to_string();
        let begin = format!("cannot sync {}: ", path.trim_end_matches('/'));
        assert!(error.starts_with(&begin), "{there:?}: {error}");
        assert_eq!(fs::read_to_string(spool.processes()).unwrap(), "");
    }
}

#[test]
fn a_line_that_cannot_be_taken_back_is_said_to_be_there() {
    let (_dir, spool) = spool();
    let processes =
        memfd_create("processes", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    fcntl_add_seals(&processes, SealFlags::SHRINK).unwrap();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let timestamp = open(&spool.dir, flags, Mode::empty()).unwrap();
    let error = spool
        .add(&processes.into(), &timestamp.into(), b"n b\n", 0)
        .unwrap_err();
    assert!(matches!(error, SpoolError::NotTakenBack { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("cannot touch") && message.contains("may start it"),
        "{message}"
    );
}

#[test]
fn a_file_that_the_host_does_not_take_grows_to_16_mib_and_no_further() {
    let (_dir, spool) = spool();
    let file = File::create(spool.processes()).unwrap();
    let room = b"n a\n".len() as u64;
    file.write_all_at(b"\n", SPOOL - room - 1).unwrap();
    write(&spool, "a").unwrap();
    assert_eq!(file.metadata().unwrap().len(), SPOOL);
    let error = write(&spool, "a").unwrap_err();
    assert!(matches!(error, SpoolError::Full { .. }), "{error}");
    assert_eq!(file.metadata().unwrap().len(), SPOOL);
}
