//! Pid files that make a side container ready, and those that must not. Needs root, and `unshare` of util-linux.
//!
//! A container is played by a shell in namespaces of its own, with a root directory that is its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use portcullis_launcher::readiness::{ReadinessError, pid_file_holds};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// The tests' busybox image; a host need not have a static one of its own.
static BUSYBOX: LazyLock<String> = LazyLock::new(|| {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/make.sh");
    let made = Command::new(script).arg("busybox").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
});

struct Container {
    root: TempDir,
    child: Child,
    output: BufReader<ChildStdout>,
    pid: u32,
}

impl Container {
    /// A shell as the main process, which does what is written to it. busybox's, so that it needs nothing in the root.
    fn start(pid_namespace: bool) -> Self {
        let root = TempDir::new().unwrap();
        for name in ["proc", "run", "bin", "dev"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let tar = Command::new("tar")
            .args(["--extract", "--strip-components=3", "--file", &*BUSYBOX])
            .arg("--directory")
            .arg(root.path().join("bin"))
            .arg("./usr/bin/busybox")
            .status();
        assert!(tar.unwrap().success(), "no busybox in {}", *BUSYBOX);
        // The shell reads from it what it starts in the background.
        fs::write(root.path().join("dev/null"), "").unwrap();
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if pid_namespace {
            command.args(["--pid", "--fork", "--kill-child"]);
        }
        let script = format!(
            "mount --bind {0} {0} && {1} && cd {0} && exec chroot . /bin/busybox sh",
            root.path().display(),
            if pid_namespace {
                format!("mount -t proc proc {}/proc", root.path().display())
            } else {
                format!("mount --bind /proc {}/proc", root.path().display())
            }
        );
        let mut child = command
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut container = Self {
            root,
            child,
            output,
            pid: 0,
        };
        container.say("echo started");
        container.pid = if pid_namespace {
            let children = format!("/proc/{0}/task/{0}/children", container.child.id());
            fs::read_to_string(children)
                .unwrap()
                .trim()
                .parse()
                .unwrap()
        } else {
            container.child.id()
        };
        container
    }

    /// Has the shell do something and reads a line of its answer.
    fn say(&mut self, line: &str) -> String {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    fn pid_file(&self) -> PathBuf {
        self.root.path().join("run/pid")
    }

    fn write(&self, content: impl AsRef<[u8]>) {
        fs::write(self.pid_file(), content).unwrap();
    }

    fn holds(&self, host_pid: bool) -> bool {
        pid_file_holds(self.pid, "/run/pid", host_pid).unwrap()
    }

    fn end(mut self) -> u32 {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
        self.pid
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Of a test that failed; of any other it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_container_is_ready_when_its_pid_file_names_a_living_process_of_it() {
    let mut container = Container::start(true);
    assert!(!container.holds(false), "there is no file yet");
    container.write("1\n");
    assert!(container.holds(false), "its main process");
    let number = container.say("/bin/busybox sleep 1000 & echo $!");
    assert_ne!(number, "1");
    container.write(&number);
    assert!(container.holds(false), "another process of it");
    container.say(&format!("kill {number}; wait {number}; echo"));
    assert!(!container.holds(false), "which has ended");
    let pid = container.end();
    assert!(!pid_file_holds(pid, "/run/pid", false).unwrap());
}

#[test]
fn with_the_hosts_numbers_a_container_is_ready_when_they_are_its_own() {
    let mut container = Container::start(false);
    container.write(container.pid.to_string());
    assert!(container.holds(true));
    let number = container.say("/bin/busybox sleep 1000 & echo $!");
    container.write(&number);
    assert!(container.holds(true));
    container.say(&format!("kill {number}; wait {number}; echo"));
    assert!(!container.holds(true));
    container.end();
}

#[test]
fn a_stale_pid_file_that_names_a_process_elsewhere_is_not_ready() {
    let container = Container::start(false);
    let other = Container::start(false);
    for number in [1, std::process::id(), other.pid] {
        container.write(number.to_string());
        assert!(!container.holds(true), "{number}");
    }
    other.end();
    container.end();

    let container = Container::start(true);
    for number in [std::process::id(), container.pid] {
        container.write(number.to_string());
        assert!(!container.holds(false), "{number} is the host's numbering");
    }
    container.end();
}

#[test]
fn a_process_that_ended_and_was_not_reaped_is_not_ready() {
    let mut container = Container::start(true);
    // A shell that turns into sleep does not reap what it started, which ends only once it has.
    let number = container.say(
        "(/bin/busybox sh -c 'until /bin/busybox grep -q sleep /proc/$PPID/cmdline; do :; done' & \
         echo $!; exec /bin/busybox sleep 1000) &",
    );
    let seen = container.root.path().join("run/status");
    container.say(&format!(
        "until /bin/busybox grep -q Z /proc/{number}/status; do :; done; \
         /bin/busybox cat /proc/{number}/status >/run/status; echo"
    ));
    assert!(fs::read_to_string(seen).unwrap().contains("Z (zombie)"));
    container.write(&number);
    assert!(!container.holds(false));
    container.end();
}

#[test]
fn what_is_no_bare_number_is_not_ready() {
    let container = Container::start(true);
    for content in [
        "",
        "\n",
        "0",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1\n\n",
        "1\r\n",
        "1\n1\n",
        "0x1",
        "1\0",
        "one",
        "\u{661}",
        "99999999999999999999",
        "4294967297",
    ] {
        container.write(content);
        assert!(!container.holds(false), "{content:?}");
    }
    let mut long = vec![b'0'; 100_000];
    long.extend(b"1\n");
    container.write(long);
    assert!(!container.holds(false));
    container.end();
}

#[test]
fn a_symbolic_link_in_the_path_of_a_pid_file_is_not_followed() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("pid"), "1\n").unwrap();
    let container = Container::start(true);
    symlink(outside.path().join("pid"), container.pid_file()).unwrap();
    symlink(outside.path(), container.root.path().join("var")).unwrap();
    symlink("/proc/self/root", container.root.path().join("magic")).unwrap();
    for path in ["/run/pid", "/var/pid", "/magic/run/pid"] {
        let error = pid_file_holds(container.pid, path, false).unwrap_err();
        assert!(matches!(error, ReadinessError::Symlink { .. }), "{error}");
    }
    container.end();
}

#[test]
fn dots_do_not_lead_out_of_the_containers_root() {
    let container = Container::start(true);
    // It would be found on the host, beside the container's root.
    let outside = container.root.path().with_extension("pid");
    fs::write(&outside, "1\n").unwrap();
    let name = outside.file_name().unwrap().to_str().unwrap();
    for path in [format!("/../{name}"), format!("../{name}")] {
        assert!(!pid_file_holds(container.pid, &path, false).unwrap());
    }
    container.write("1\n");
    // Beside renames, wherever they are, the kernel does not say where dots lead (openat2(2), EAGAIN): that is no error, and
    // the file is found another time.
    let elsewhere = TempDir::new().unwrap();
    let [one, other] = ["one", "other"].map(|name| elsewhere.path().join(name));
    fs::write(&one, "").unwrap();
    let stop = AtomicBool::new(false);
    let holds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(&one, &other).unwrap();
                fs::rename(&other, &one).unwrap();
            }
        });
        let looks = || pid_file_holds(container.pid, "/../run/pid", false);
        let looks: Vec<_> = (0..10_000).map(|_| looks()).collect();
        stop.store(true, Ordering::Relaxed);
        looks
    });
    assert!(
        holds
            .into_iter()
            .map(Result::unwrap)
            .filter(|holds| *holds)
            .count()
            > 0
    );
    fs::remove_file(outside).unwrap();
    container.end();
}

#[test]
fn fifos_and_devices_as_pid_files_do_not_block() {
    let container = Container::start(true);
    let zero = rustix::fs::makedev(1, 5);
    for (kind, device) in [(FileType::Fifo, 0), (FileType::CharacterDevice, zero)] {
        mknodat(CWD, container.pid_file(), kind, Mode::RUSR, device).unwrap();
        let error = pid_file_holds(container.pid, "/run/pid", false).unwrap_err();
        assert!(matches!(error, ReadinessError::Kind { .. }), "{error}");
        fs::remove_file(container.pid_file()).unwrap();
    }
    fs::create_dir(container.pid_file()).unwrap();
    assert!(pid_file_holds(container.pid, "/run/pid", false).is_err());
    container.end();
}

#[test]
fn a_container_without_proc_is_ready_with_its_main_process_alone() {
    let mut container = Container::start(true);
    let number = container.say("/bin/busybox sleep 1000 & echo $!");
    container.say("/bin/busybox umount /proc; echo");
    container.write(&number);
    assert!(!container.holds(false));
    // Nor is a directory that looks like one of /proc's taken for it.
    fs::create_dir_all(container.root.path().join("proc").join(&number).join("ns")).unwrap();
    let fake = container.root.path().join(format!("proc/{number}/ns/mnt"));
    symlink(format!("/proc/{}/ns/mnt", container.pid), fake).unwrap();
    assert!(!container.holds(false));
    container.write("1\n");
    assert!(container.holds(false));
    container.end();
}
