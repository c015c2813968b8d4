//! A machine that boots: a Debian with a real systemd in systemd-nspawn, on which the package is installed as on any host.
//!
//! Each is fresh, and in memory: nothing is left of it. One runs at a time, whoever asks, as there are two processors.

use crate::host::image;
use crate::{LONG, Process, binary, until};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A booted machine, killed on drop with all that runs in it.
#[derive(Debug)]
pub struct Machine {
    // Before the turn: it is over when the machine is gone.
    boot: Boot,
    leader: Process,
    _turn: File,
}

/// Its systemd-nspawn, its cgroup and its console.
#[derive(Debug)]
struct Boot {
    nspawn: Child,
    group: PathBuf,
    dir: TempDir,
}

impl Machine {
    /// Boots one without our package and waits until it is up; [`IMAGE`](crate::IMAGE) is in its podman's store.
    ///
    /// # Panics
    /// When not root, or when it does not come up.
    #[must_use]
    #[track_caller]
    pub fn boot() -> Self {
        assert!(rustix::process::geteuid().is_root(), "the tests need root");
        let root = root();
        let turn = File::create(root.with_file_name("turn")).expect("a lock file");
        flock(&turn, FlockOperation::LockExclusive).expect("a turn");
        let mut boot = Boot::new(&root);
        let leader = until("the machine's systemd", || boot.leader());
        let machine = Self {
            boot,
            leader,
            _turn: turn,
        };
        machine.wait_until_it_is_up();
        machine.import("busybox", crate::IMAGE);
        machine
    }

    #[track_caller]
    fn wait_until_it_is_up(&self) {
        let end = Instant::now() + 5 * LONG; // all that a boot starts
        loop {
            let state = self.shell("systemctl is-system-running").stdout;
            let state = String::from_utf8_lossy(&state);
            if ["running", "degraded"].contains(&state.trim()) {
                return;
            }
            assert!(Instant::now() < end, "the machine is not up, but {state}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Boots one and installs the package.
    ///
    /// # Panics
    /// As [`boot`](Self::boot).
    #[must_use]
    #[track_caller]
    pub fn with_package() -> Self {
        let machine = Self::boot();
        machine.install(&package());
        machine
    }

    /// Installs a package file as an operator does.
    #[track_caller]
    pub fn install(&self, package: &Path) {
        self.give(package, "/root/package.deb");
        self.must("DEBIAN_FRONTEND=noninteractive apt-get install --yes /root/package.deb");
    }

    /// Puts one of `images/make.sh`'s images into its podman's store.
    #[track_caller]
    pub fn import(&self, name: &str, reference: &str) {
        self.give(&image(name), "/root/image.tar");
        self.must(&format!(
            "podman import --quiet /root/image.tar {reference} && rm /root/image.tar"
        ));
    }

    /// A command in it, as root, with what a login shell has in its environment.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        // In the group of its own first process: a group of this side's would be outside of what its systemd sees.
        let enter = format!(
            "echo $$ >{}/payload/init.scope/cgroup.procs; exec timeout {} nsenter --target={} --all -- \"$@\"",
            self.boot.group.display(),
            20 * LONG.as_secs(), // a thousand reloads, or all lines of a storm
            self.leader.pid
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &enter, "sh", program]);
        command.env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin");
        command.envs([("HOME", "/root"), ("LANG", "C.UTF-8")]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a line of shell in it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn shell(&self, line: &str) -> Output {
        let mut shell = self.command("sh");
        shell.args(["-c", line]).output().expect("a shell")
    }

    /// Runs a line of shell in it, which must succeed, and gives what it printed, without the last newline.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn must(&self, line: &str) -> String {
        let done = self.shell(line);
        assert!(
            done.status.success(),
            "{line}: {}\n{}\n{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        let text = String::from_utf8(done.stdout).expect("UTF-8");
        text.trim_end().to_owned()
    }

    /// Where a path of its is on this side.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.leader.file("root").join(path.trim_start_matches('/'))
    }

    /// Writes a file in it, at once and whole.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        let new = path.with_extension("new");
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&new, text).expect("a file");
        fs::rename(new, path).expect("a file");
    }

    /// Copies a file of this side into it, with its mode.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn give(&self, file: &Path, path: &str) {
        fs::copy(file, self.path(path)).expect("a copy");
    }

    /// Its journal: what `journalctl` with those arguments shows, an object for each entry.
    ///
    /// # Panics
    /// When journalctl fails.
    #[must_use]
    #[track_caller]
    pub fn journal(&self, arguments: &str) -> Vec<Value> {
        let text = self.must(&format!("journalctl --output=json --all {arguments}"));
        let entries = text.lines();
        entries
            .map(|line| serde_json::from_str(line).expect("journalctl's JSON"))
            .collect()
    }

    /// A property of a unit, as systemd has it.
    #[track_caller]
    #[must_use]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.must(&format!("systemctl show --value --property={name} {unit}"))
    }

    /// Its processes, by the numbers that they have in it.
    #[must_use]
    pub fn processes(&self) -> BTreeMap<i32, Process> {
        let ours = self.boot.group.file_name().expect("a name");
        let ours = format!("/{}/", ours.to_string_lossy());
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        numbers
            .filter_map(|entry| {
                let process = Process::find(entry.file_name().to_str()?.parse().ok()?)?;
                let group = fs::read_to_string(process.file("cgroup")).ok()?;
                group.contains(&ours).then_some(())?;
                Some((inner_number(process)?, process))
            })
            .collect()
    }

    /// The process that has that number in it.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn process(&self, number: i32) -> Process {
        *self.processes().get(&number).expect("such a process")
    }

    /// Those of its processes that run that program.
    #[must_use]
    pub fn running(&self, program: &str) -> Vec<Process> {
        let mut all = self.processes();
        all.retain(|_, process| {
            let arguments = process.arguments();
            arguments.first().is_some_and(|a| a.ends_with(program))
        });
        all.into_values().collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.shell("journalctl --no-pager --lines=50 --unit='portcullis*' --identifier=portcullis-launcher --identifier=systemd");
            eprintln!("--- the machine's journal ---");
            eprint!("{}", String::from_utf8_lossy(&log.stdout));
            eprintln!("---");
        }
    }
}

impl Boot {
    fn new(root: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("pct-").tempdir();
        let dir = dir.expect("a temporary directory");
        let group = unified_hierarchy().join(dir.path().file_name().expect("a name"));
        let console = File::create(dir.path().join("console")).expect("a file");
        fs::create_dir(&group).expect("a cgroup");
        let nspawn = Command::new(script("boot.sh"))
            .args([root, &group])
            .stdin(Stdio::piped())
            .stdout(console.try_clone().expect("a descriptor"))
            .stderr(console)
            .spawn()
            .expect("tests/host/boot.sh");
        Self { nspawn, group, dir }
    }

    /// The machine's first process, once it has put itself where systemd belongs.
    fn leader(&mut self) -> Option<Process> {
        if let Some(status) = self.nspawn.try_wait().expect("its status") {
            panic!("the machine does not boot: {status}\n{}", self.console());
        }
        let members = self.group.join("payload/init.scope/cgroup.procs");
        let members = fs::read_to_string(members).ok()?;
        let mut processes = members
            .lines()
            .filter_map(|n| Process::find(n.parse().ok()?));
        processes.find(|process| inner_number(*process) == Some(1))
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Boot {
    /// There is nothing in it that a shutdown would save, and one waits for programs that do not hear SIGTERM.
    fn drop(&mut self) {
        let _ = fs::write(self.group.join("payload/cgroup.kill"), "1");
        let end = Instant::now() + LONG;
        while matches!(self.nspawn.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::write(self.group.join("cgroup.kill"), "1");
        let _ = self.nspawn.wait();
        while remove_group(&self.group).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            eprintln!("--- the machine's console ---\n{}---", self.console());
        }
    }
}

/// Removes a cgroup and those in it, whose processes have ended.
fn remove_group(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// The number that a process has in the machine, whatever namespaces there are within.
fn inner_number(process: Process) -> Option<i32> {
    let status = fs::read_to_string(process.file("status")).ok()?;
    let numbers = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().nth(1)?.parse().ok()
}

/// Where cgroup v2 is mounted. The machine's group is made at its top: the controllers that a host gives away end there.
fn unified_hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mount = mount.expect("cgroup v2 is mounted nowhere; systemd-nspawn needs it");
    mount.split(' ').nth(4).expect("a mount point").into()
}

/// What `tests/host/root.sh` made, or makes now.
fn root() -> PathBuf {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let made = Command::new(script("root.sh")).output();
        let made = made.expect("tests/host/root.sh");
        assert!(made.status.success(), "{made:?}");
        let path = String::from_utf8(made.stdout).expect("UTF-8");
        path.trim_end().into()
    });
    ROOT.clone()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("host")
        .join(name)
}

/// Leaves a text that a host test has found out where people find it: in `target/host`.
///
/// # Panics
/// When it cannot be written.
pub fn keep(name: &str, text: &str) {
    fs::write(root().with_file_name(name), text).expect("a file in target/host");
}

/// The package that `make package` left beside the binaries.
///
/// # Panics
/// When there is none, or more than one.
#[must_use]
pub fn package() -> PathBuf {
    let binaries = binary("portcullis");
    let dir = binaries.ancestors().nth(2).expect("a directory");
    let mut packages: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("portcullis_") && name.ends_with(".deb")
        })
        .collect();
    let found = packages.pop().unwrap_or_else(|| {
        panic!(
            "no portcullis_*.deb in {}: run `make package`",
            dir.display()
        )
    });
    assert!(packages.is_empty(), "and which of them? {packages:?}");
    found
}
