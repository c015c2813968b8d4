//! What is mounted beneath a mount source: as read-only as the rule says, never suid, never a device; and the launcher's own
//! staging area, which is beneath `/` and `/run`, is in none of them.

use portcullis_tests::{
    Agent, Host, Launched, Process, binary, denied, holds, launch, launched, uuid,
};
use portcullis_wire::{Reason, State};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A source in a directory that is root's all the way, with a file system mounted beneath it, and one beneath that.
struct Tree {
    dir: TempDir,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pct-tree-")
            .tempdir_in("/run")
            .unwrap();
        let tree = Self { dir };
        for name in ["sub", "sub/deep"] {
            let path = tree.path().join(name);
            fs::create_dir_all(&path).unwrap();
            mount("pct", &path, "tmpfs", MountFlags::empty(), None).unwrap();
            fs::write(path.join("file"), "there").unwrap();
        }
        tree
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A device and a program that is root's and suid, in the file system beneath.
    fn arm(&self) {
        let sub = self.path().join("sub");
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            CWD,
            sub.join("zero"),
            FileType::CharacterDevice,
            mode,
            makedev(1, 5),
        )
        .unwrap();
        fs::copy(binary("portcullis-policy"), sub.join("tool")).unwrap();
        fs::set_permissions(sub.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(sub.join("a.toml"), "version = 1\n").unwrap();
        fs::set_permissions(sub.join("a.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What a test has mounted on all of it hides what is beneath.
        let _ = unmount(self.path(), UnmountFlags::DETACH);
        let _ = unmount(self.path().join("sub"), UnmountFlags::DETACH);
    }
}

/// An agent with a rule `get ID` that mounts this source at /data.
fn with_source<'h>(host: &'h Host, source: &str, mode: &str) -> Agent<'h> {
    let rule = format!(
        r#"
[[launch]]
rule = "get"
command = "get"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "sh"]
args = [{{ min = 1, pattern = "{{id:word}}" }}]
[launch.container]
name = "get-{{id}}"
user = "1000:1000"
no_new_privileges = false
mounts = [{{ source = "{source}", target = "/data", mode = "{mode}" }}]
"#
    );
    host.agent("blue", &rule)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn get(agent: &Agent<'_>) -> Launched {
    launched(agent.client().launch(launch("get", &[&uuid()])))
}

/// Mount points with their own options, as a process has them.
fn mounts(process: Process) -> Vec<(String, Vec<String>)> {
    let table = fs::read_to_string(process.file("mountinfo")).unwrap();
    let fields = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let options = |text: &str| text.split(',').map(str::to_owned).collect();
    fields
        .map(|field| (field[4].to_owned(), options(field[5])))
        .collect()
}

#[track_caller]
fn has_options(process: Process, point: &str, expected: &[&str]) {
    let all = mounts(process);
    let found = all.iter().find(|(path, _)| path == point);
    let (_, options) = found.unwrap_or_else(|| panic!("nothing at {point}: {all:?}"));
    for option in expected {
        assert!(options.iter().any(|o| o == option), "{point}: {options:?}");
    }
}

/// A program of root's that is suid, run by the container's user, cannot read what only root can.
#[track_caller]
fn suid_gains_nothing(host: &Host, answer: &Launched) {
    let arguments = ["/data/sub/tool", "check", "/data/sub/a.toml"];
    let run = ["exec", "--user=1000:1000", &answer.name];
    let done = host.engine().podman(&[&run[..], &arguments].concat());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("ermission denied"), "{done:?}");
}

#[track_caller]
fn device_cannot_be_opened(process: Process) {
    let error = fs::File::open(process.file("root/data/sub/zero")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn read_only_source_is_read_only_beneath() {
    let host = Host::new();
    let tree = Tree::new();
    tree.arm();
    let agent = with_source(&host, text(tree.path()), "ro");
    let _service = agent.start();
    let answer = get(&agent);
    let process = answer.process();
    for (point, dir) in [
        ("/data", ""),
        ("/data/sub", "sub/"),
        ("/data/sub/deep", "sub/deep/"),
    ] {
        has_options(process, point, &["ro", "nosuid", "nodev"]);
        let new = process.file(&format!("root/data/{dir}new"));
        let error = fs::write(new, "x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{point}");
    }
    let deep = process.file("root/data/sub/deep/file");
    assert_eq!(fs::read_to_string(deep).unwrap(), "there");
    device_cannot_be_opened(process);
    suid_gains_nothing(&host, &answer);
}

#[test]
fn writable_source_has_no_suid_or_device_beneath() {
    let host = Host::new();
    let tree = Tree::new();
    tree.arm();
    let agent = with_source(&host, text(tree.path()), "rw");
    let _service = agent.start();
    let answer = get(&agent);
    let process = answer.process();
    for point in ["/data", "/data/sub", "/data/sub/deep"] {
        has_options(process, point, &["rw", "nosuid", "nodev"]);
    }
    fs::write(process.file("root/data/sub/deep/new"), "x").unwrap();
    assert!(tree.path().join("sub/deep/new").exists());
    device_cannot_be_opened(process);
    suid_gains_nothing(&host, &answer);
}

/// What the host has made noexec or read-only beneath a source stays so.
#[test]
fn options_of_submounts_are_kept() {
    let host = Host::new();
    let tree = Tree::new();
    let flags = MountFlags::NOEXEC | MountFlags::RDONLY;
    let kept = tree.path().join("sub/kept");
    fs::create_dir(&kept).unwrap();
    mount("pct", &kept, "tmpfs", flags, None).unwrap();
    let agent = with_source(&host, text(tree.path()), "rw");
    let _service = agent.start();
    let process = get(&agent).process();
    let expected = ["ro", "noexec", "nosuid", "nodev"];
    has_options(process, "/data/sub/kept", &expected);
}

#[test]
fn later_mount_does_not_reach_running_container() {
    let host = Host::new();
    let tree = Tree::new();
    let later = tree.path().join("later");
    fs::create_dir(&later).unwrap();
    mount_bind(tree.path(), tree.path()).unwrap();
    mount_change(tree.path(), MountPropagationFlags::SHARED).unwrap();
    let agent = with_source(&host, text(tree.path()), "ro");
    let _service = agent.start();
    let process = get(&agent).process();
    mount("pct", &later, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(later.join("file"), "later").unwrap();
    assert!(process.file("root/data/later").exists());
    assert!(!process.file("root/data/later/file").exists());
}

/// A source with a value of the request is the agent's: what the host has mounted beneath it is not.
#[test]
fn captured_source_brings_no_submount() {
    let host = Host::new();
    let tree = Tree::new();
    let source = format!("{}/{{id}}", text(tree.path().parent().unwrap()));
    let agent = with_source(&host, &source, "ro");
    let _service = agent.start();
    let id = tree.path().file_name().unwrap().to_str().unwrap();
    let answer = launched(agent.client().launch(launch("get", &[id])));
    let process = answer.process();
    assert!(process.file("root/data/sub").exists());
    assert!(!process.file("root/data/sub/file").exists());
}

/// The kernel clones no unbindable mount; nothing of it is given, and nothing is left.
#[test]
fn source_that_cannot_be_cloned_is_denied() {
    let host = Host::new();
    let tree = Tree::new();
    let sub = tree.path().join("sub");
    mount_change(&sub, MountPropagationFlags::UNBINDABLE).unwrap();
    let agent = with_source(&host, text(&sub), "ro");
    let _service = agent.start();
    let reply = agent.client().launch(launch("get", &["1"]));
    assert_eq!(denied(reply), Reason::Mount);
    assert!(host.engine().calls().runs().is_empty());
    let log = fs::read_to_string(agent.log()).unwrap();
    assert!(log.contains("cannot be cloned"), "{log}");
    assert_eq!(staged(&agent), 1, "the empty area");
}

/// How many mounts there are in the launcher's private directory.
fn staged(agent: &Agent<'_>) -> usize {
    let me = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
    let all = mounts(me).into_iter();
    all.filter(|(point, _)| Path::new(point).starts_with(agent.private()))
        .count()
}

/// The launcher's private directory is beneath both: neither itself nor what another launch has staged comes along.
#[test]
fn sources_above_the_staging_area_bring_nothing_staged() {
    for source in ["/", "host"] {
        let host = Host::new();
        let source = match source {
            "/" => PathBuf::from("/"),
            _ => host.path().to_owned(),
        };
        let agent = with_source(&host, text(&source), "ro");
        // Holds what it has staged while the other is launched.
        host.engine().hang("run", "get-held");
        let _service = agent.start();
        let mut held = agent.client();
        let request = launch("get", &["held"]);
        held.send(portcullis_wire::Body::Launch(request)).unwrap();
        holds("podman is called", || {
            !host.engine().calls().runs().is_empty()
        });
        let process = get(&agent).process();
        let private = agent.private();
        let inside = Path::new("/data").join(private.strip_prefix(&source).unwrap());
        let seen = mounts(process);
        for (point, _) in &seen {
            assert!(!Path::new(point).starts_with(&inside), "{point}");
            assert!(!Path::new(point).starts_with(&private), "{point}");
        }
        let root = process.file("root");
        let area = root.join(inside.strip_prefix("/").unwrap());
        for entry in fs::read_dir(area).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("staging-") {
                assert_eq!(fs::read_dir(entry.path()).unwrap().count(), 0);
            }
        }
        host.engine().release("run");
        holds("both run", || host.engine().containers().len() == 2);
        holds("nothing is staged any more", || staged(&agent) == 1);
    }
}

/// What a killed launcher left staged is a whole tree then.
#[test]
fn staged_tree_of_killed_launcher_is_swept() {
    let host = Host::new();
    let tree = Tree::new();
    let agent = with_source(&host, text(tree.path()), "ro");
    host.engine().hang("run", "");
    let service = agent.start();
    let mut client = agent.client();
    let request = launch("get", &["1"]);
    client.send(portcullis_wire::Body::Launch(request)).unwrap();
    holds("podman is called", || {
        !host.engine().calls().runs().is_empty()
    });
    assert_eq!(staged(&agent), 4, "the area, the source, two beneath it");
    service.kill();
    assert_eq!(staged(&agent), 4);
    host.engine().release("run");
    let service = agent.start();
    // Only then is no podman of the killed launcher at work any more, which would need it.
    holds("what was asked for runs", || {
        let items = service.list(true);
        items.iter().any(|item| item.state == State::Running)
    });
    assert!(service.stop().success());
    holds("nothing is staged any more", || staged(&agent) == 0);
    assert!(tree.path().join("sub/deep/file").exists());
}
