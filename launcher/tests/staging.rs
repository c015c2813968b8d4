//! Attacks on what is staged: namespaces that are none, or the host's; mount sources that lead elsewhere; and swaps of
//! either while they are looked at. Needs root, and `unshare` of util-linux.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use portcullis_launcher::staging::{Staging, StagingError};
use portcullis_wire::Reason;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mkdirat, mknodat, renameat_with};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use tempfile::TempDir;

/// A directory for the operator (`netns`, `state`), the launcher (`run`) and a secret that no agent may reach.
struct Scene {
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            directory: TempDir::new().unwrap(),
        };
        for name in ["netns", "state", "run", "secret"] {
            mkdirat(CWD, scene.path(name), Mode::RWXU).unwrap();
        }
        fs::write(scene.path("secret/key"), "secret").unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn staging(&self) -> Staging {
        Staging::new(&self.path("run")).unwrap()
    }

    fn refusal_of_netns(&self, name: &str) -> StagingError {
        let error = Staging::resolve_netns(&self.path("netns"), name).unwrap_err();
        assert_eq!(error.reason(), Reason::Netns, "{error}");
        error
    }

    fn refusal_of_source(&self, staging: &Staging, rest: &str) -> StagingError {
        let error = staging
            .stage_source(&self.path("state"), Path::new(rest), false)
            .unwrap_err();
        assert_eq!(error.reason(), Reason::Mount, "{error}");
        assert_nothing_is_left_in(staging.path());
        error
    }
}

/// What a thread that swaps and one that is not to be fooled know of each other.
#[derive(Default)]
struct Race {
    swaps: AtomicUsize,
    over: AtomicBool,
}

impl Race {
    /// Attempts while another thread swaps, until there have been 10,000 of both, and returns how many were staged and
    /// what the refusals said.
    fn run(
        &self,
        swap: impl Fn() + Sync,
        attempt: impl Fn() -> Result<(), StagingError>,
    ) -> (usize, BTreeSet<String>) {
        /// Also when an attempt panics, the swapping has to end.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let _over = Over(&self.over);
            let swapper = scope.spawn(|| {
                while !self.over.load(Ordering::Relaxed) {
                    swap();
                }
            });
            let (mut attempts, mut staged, mut refused) = (0, 0, BTreeSet::new());
            while attempts < 10_000 || self.swaps.load(Ordering::Relaxed) < 10_000 {
                assert!(!swapper.is_finished(), "the swapping thread failed");
                attempts += 1;
                match attempt() {
                    Ok(()) => staged += 1,
                    Err(error) => {
                        refused.insert(format!("{:?}: {error}", error.reason()));
                    }
                }
            }
            (staged, refused)
        })
    }

    fn swapped(&self) {
        self.swaps.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for (point, _) in mounts_beneath(self.directory.path()).iter().rev() {
            let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
        }
    }
}

/// Mount points with their options, in the kernel's order.
fn mounts_beneath(path: &Path) -> Vec<(PathBuf, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let fields = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .map(|field| (PathBuf::from(field[4]), field[5..].join(" ")))
        .filter(|(point, _)| point.starts_with(path))
        .collect()
}

fn assert_nothing_is_left_in(area: &Path) {
    let points: Vec<_> = mounts_beneath(area);
    assert!(points.len() <= 1, "{points:?}");
    assert_eq!(fs::read_dir(area).unwrap().count(), 0);
}

/// Makes a namespace of the kind and binds it to a file.
fn namespace(kind: &str, file: &Path) {
    fs::write(file, "").unwrap();
    let option = format!("--{kind}={}", file.display());
    let status = Command::new("unshare").args([&option, "true"]).status();
    assert!(status.unwrap().success());
}

/// Binds a user namespace, which `unshare` cannot do, to a file.
fn user_namespace(file: &Path) {
    let mut unshared = Command::new("unshare")
        .args(["--user", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let namespace = PathBuf::from(format!("/proc/{}/ns/user", unshared.id()));
    let ours = fs::metadata("/proc/self/ns/user").unwrap().ino();
    while fs::metadata(&namespace).unwrap().ino() == ours {
        thread::yield_now();
    }
    bind(namespace, file);
    drop(unshared.stdin.take());
    assert!(unshared.wait().unwrap().success());
}

fn bind(from: impl AsRef<Path>, to: &Path) {
    fs::write(to, "").unwrap();
    rustix::mount::mount_bind(from.as_ref(), to).unwrap();
}

fn special(path: &Path, kind: FileType) {
    // Device 1:5 is /dev/zero.
    let device = rustix::fs::makedev(1, 5);
    mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device).unwrap();
}

// Namespaces

#[test]
fn a_network_namespace_is_staged_as_itself_and_leaves_nothing() {
    let scene = Scene::new();
    let name = scene.path("netns/qdhcp-1");
    namespace("net", &name);
    let staging = scene.staging();

    let ns = Staging::resolve_netns(&scene.path("netns"), "qdhcp-1").unwrap();
    let file = fs::metadata(&name).unwrap();
    assert_eq!((ns.dev, ns.ino), (file.dev(), file.ino()));

    let staged = staging.stage_netns(&ns).unwrap();
    let path = staged.path().to_owned();
    assert_eq!(fs::metadata(&path).unwrap().ino(), ns.ino);
    let options = &mounts_beneath(&path)[0].1;
    for option in ["nosuid", "nodev", "noexec", "ro"] {
        assert!(options.contains(option), "{options}");
    }
    // Entering it works, which is all that podman does with it.
    let option = format!("--net={}", path.display());
    let entered = Command::new("nsenter")
        .args([&option, "readlink", "/proc/self/ns/net"])
        .output()
        .unwrap();
    let entered = String::from_utf8(entered.stdout).unwrap();
    assert_eq!(entered.trim(), format!("net:[{}]", ns.ino));

    drop(ns);
    staged.release().unwrap();
    assert!(!path.exists());
    assert_nothing_is_left_in(staging.path());
    drop(staging);
    assert_eq!(mounts_beneath(&scene.path("run")), []);
    assert_eq!(fs::read_dir(scene.path("run")).unwrap().count(), 0);
}

#[test]
fn a_name_that_is_a_path_is_no_namespace() {
    let scene = Scene::new();
    namespace("net", &scene.path("state/good"));
    for name in [
        "ns:/proc/1/ns/net",
        "/proc/1/ns/net",
        "../state/good",
        "..",
        ".",
        "",
        "a/../b",
        "good\0",
    ] {
        let error = scene.refusal_of_netns(name);
        assert!(matches!(error, StagingError::NetnsName(_)), "{error}");
    }
}

#[test]
fn podmans_own_words_for_namespaces_are_looked_up_as_names() {
    let scene = Scene::new();
    for name in ["host", "container:neutron", "pasta", "none"] {
        let error = scene.refusal_of_netns(name);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_symbolic_link_is_no_namespace_even_to_a_good_one() {
    let scene = Scene::new();
    namespace("net", &scene.path("netns/good"));
    for (name, target) in [
        ("host", "/proc/1/ns/net"),
        ("self", "/proc/self/ns/net"),
        ("near", "good"),
    ] {
        symlink(target, scene.path("netns").join(name)).unwrap();
        let error = scene.refusal_of_netns(name).to_string();
        assert!(error.contains("symbolic link"), "{error}");
    }
}

#[test]
fn a_bind_mount_of_the_launchers_own_namespace_is_refused() {
    let scene = Scene::new();
    bind("/proc/self/ns/net", &scene.path("netns/own"));
    let error = scene.refusal_of_netns("own");
    assert!(matches!(error, StagingError::NetnsHost { .. }), "{error}");
}

#[test]
fn a_bind_mount_of_the_hosts_namespace_is_refused_by_a_launcher_that_is_in_another() {
    const HOST: &str = "STAGING_TEST_NETNS_OF_HOST";
    if let Some(netns) = std::env::var_os(HOST) {
        // The second time round, in another network namespace, where "our own" is not the host's.
        let error = Staging::resolve_netns(Path::new(&netns), "host").unwrap_err();
        assert!(matches!(error, StagingError::NetnsHost { .. }), "{error}");
        let own = Path::new(&netns).join("own");
        bind("/proc/self/ns/net", &own);
        let error = Staging::resolve_netns(Path::new(&netns), "own").unwrap_err();
        assert!(matches!(error, StagingError::NetnsHost { .. }), "{error}");
        rustix::mount::unmount(&own, UnmountFlags::DETACH).unwrap();
        assert!(Staging::resolve_netns(Path::new(&netns), "good").is_ok());
        return;
    }
    let scene = Scene::new();
    let netns = scene.path("netns");
    bind("/proc/self/ns/net", &netns.join("host"));
    namespace("net", &netns.join("good"));
    let this = "a_bind_mount_of_the_hosts_namespace_is_refused_by_a_launcher_that_is_in_another";
    let inner = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", this])
        .env(HOST, &netns)
        .output()
        .unwrap();
    assert!(inner.status.success(), "{inner:?}");
}

#[test]
fn a_user_namespace_is_no_network_namespace() {
    let scene = Scene::new();
    user_namespace(&scene.path("netns/user"));
    for kind in ["uts", "ipc", "cgroup"] {
        namespace(kind, &scene.path("netns").join(kind));
    }
    for kind in ["user", "uts", "ipc", "cgroup"] {
        let error = scene.refusal_of_netns(kind).to_string();
        assert!(error.contains("another type"), "{error}");
    }
}

#[test]
fn files_directories_fifos_sockets_and_devices_are_no_namespaces_and_do_not_block() {
    let scene = Scene::new();
    let netns = scene.path("netns");
    fs::write(netns.join("file"), "").unwrap();
    fs::create_dir(netns.join("directory")).unwrap();
    let _listener = UnixListener::bind(netns.join("socket")).unwrap();
    special(&netns.join("fifo"), FileType::Fifo);
    special(&netns.join("device"), FileType::CharacterDevice);
    // Another file that is the kernel's, and says "net".
    bind("/proc/self/net/dev", &netns.join("proc"));
    for name in ["file", "directory", "socket", "fifo", "device", "proc"] {
        let error = scene.refusal_of_netns(name);
        assert!(matches!(error, StagingError::NetnsKind { .. }), "{error}");
    }
}

#[test]
fn a_namespace_swapped_ten_thousand_times_is_never_the_wrong_one() {
    let scene = Scene::new();
    let (netns, name) = (scene.path("netns"), scene.path("netns/n"));
    namespace("net", &scene.path("state/good"));
    user_namespace(&scene.path("state/user"));
    bind(scene.path("state/good"), &name);
    let good = fs::metadata(&name).unwrap().ino();
    let staging = scene.staging();
    let race = Race::default();

    let swap = || {
        let unmount = || {
            rustix::mount::unmount(&name, UnmountFlags::DETACH).unwrap();
            race.swapped();
        };
        // On top of it, which is atomic both ways.
        for wrong in [Path::new("/proc/self/ns/net"), &scene.path("state/user")] {
            rustix::mount::mount_bind(wrong, &name).unwrap();
            race.swapped();
            unmount();
        }
        // And in its place, by way of all that a directory entry can be.
        unmount();
        fs::remove_file(&name).unwrap();
        symlink("/proc/self/ns/net", &name).unwrap();
        race.swapped();
        fs::remove_file(&name).unwrap();
        special(&name, FileType::Fifo);
        race.swapped();
        fs::remove_file(&name).unwrap();
        bind(scene.path("state/good"), &name);
        race.swapped();
    };
    let (staged, refused) = race.run(swap, || {
        let ns = Staging::resolve_netns(&netns, "n")?;
        assert_eq!(ns.ino, good);
        let path = staging.stage_netns(&ns)?;
        assert_eq!(fs::metadata(path.path()).unwrap().ino(), good);
        path.release()
    });
    // The race was run: it was met in its good state and in most of the bad ones.
    assert!(staged > 0 && refused.len() >= 3, "{staged}, {refused:?}");
    assert_nothing_is_left_in(staging.path());
}

#[test]
fn a_namespace_that_is_recreated_under_its_name_has_another_number() {
    let scene = Scene::new();
    let name = scene.path("netns/n");
    let staging = scene.staging();
    namespace("net", &name);
    let before = Staging::resolve_netns(&scene.path("netns"), "n").unwrap();
    rustix::mount::unmount(&name, UnmountFlags::DETACH).unwrap();
    namespace("net", &name);
    let after = Staging::resolve_netns(&scene.path("netns"), "n").unwrap();
    assert_ne!(before.ino, after.ino);
    // The one that was resolved is the one that is staged, whatever has its name now; or it is an error.
    if let Ok(staged) = staging.stage_netns(&before) {
        assert_eq!(fs::metadata(staged.path()).unwrap().ino(), before.ino);
    }
}

// Mount sources

#[test]
fn directories_files_and_sockets_are_staged_as_themselves() {
    let scene = Scene::new();
    let state = scene.path("state");
    fs::create_dir_all(state.join("dhcp/one")).unwrap();
    fs::write(state.join("dhcp/one/hosts"), "hosts").unwrap();
    let _listener = UnixListener::bind(state.join("dhcp/socket")).unwrap();
    let staging = scene.staging();
    for (rest, read_only) in [
        ("dhcp/one", false),
        ("dhcp/one", true),
        ("dhcp/one/hosts", false),
        ("dhcp/one/hosts", true),
        ("dhcp/socket", false),
    ] {
        let staged = staging
            .stage_source(&state, Path::new(rest), read_only)
            .unwrap();
        let found = fs::metadata(staged.path()).unwrap();
        let meant = fs::metadata(state.join(rest)).unwrap();
        assert_eq!((found.dev(), found.ino()), (meant.dev(), meant.ino()));
        let options = &mounts_beneath(staged.path())[0].1;
        assert!(options.contains("nosuid,nodev"), "{options}");
        assert_eq!(options.starts_with("ro"), read_only, "{options}");
        assert!(!options.contains("shared:"), "{options}");
        staged.release().unwrap();
        assert_nothing_is_left_in(staging.path());
    }
}

#[test]
fn what_is_staged_read_only_cannot_be_written_and_devices_in_it_cannot_be_opened() {
    let scene = Scene::new();
    fs::create_dir(scene.path("state/a")).unwrap();
    special(&scene.path("state/a/zero"), FileType::CharacterDevice);
    let staging = scene.staging();
    let stage = |read_only| staging.stage_source(&scene.path("state"), Path::new("a"), read_only);
    let (shut, open) = (stage(true).unwrap(), stage(false).unwrap());
    let error = fs::write(shut.path().join("new"), "").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    fs::write(open.path().join("new"), "").unwrap();
    for staged in [&shut, &open] {
        let error = fs::File::open(staged.path().join("zero")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
}

#[test]
fn a_symbolic_link_beneath_the_prefix_is_not_followed() {
    let scene = Scene::new();
    let state = scene.path("state");
    fs::create_dir(state.join("real")).unwrap();
    symlink(scene.path("secret"), state.join("last")).unwrap();
    symlink(scene.path("secret"), state.join("real/within")).unwrap();
    symlink("real", state.join("relative")).unwrap();
    symlink("/proc/self/root", state.join("magic")).unwrap();
    let staging = scene.staging();
    for rest in [
        "last",
        "last/key",
        "real/within/key",
        "relative",
        "magic/etc",
    ] {
        let error = scene.refusal_of_source(&staging, rest).to_string();
        assert!(error.contains("symbolic link"), "{error}");
    }
}

#[test]
fn a_link_in_the_prefix_is_followed_where_only_root_can_have_made_it() {
    let host = tempfile::tempdir_in("/run").unwrap();
    let scene = Scene::new();
    fs::create_dir_all(host.path().join("state/a")).unwrap();
    symlink("state", host.path().join("relative")).unwrap();
    symlink(host.path().join("relative"), host.path().join("absolute")).unwrap();
    symlink("../run/loop", host.path().join("loop")).unwrap();
    let staging = scene.staging();
    let stage = |prefix: &str| {
        let prefix = host.path().join(prefix);
        staging.stage_source(&prefix, Path::new("a"), true)
    };
    for prefix in ["state", "relative", "absolute", "absolute/../state"] {
        assert!(stage(prefix).is_ok(), "{prefix}");
    }
    assert_eq!(stage("loop").unwrap_err().reason(), Reason::Mount);
    // Root's link, but anybody may put another one in its place.
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for prefix in ["relative", "absolute", "state/../state"] {
        assert_eq!(
            stage(prefix).unwrap_err().reason(),
            Reason::Mount,
            "{prefix}"
        );
    }
    assert!(stage("state").is_ok());
}

#[test]
fn an_agent_that_owns_a_directory_of_the_prefix_cannot_lead_it_elsewhere() {
    let host = tempfile::tempdir_in("/run").unwrap();
    let scene = Scene::new();
    let (owned, other) = (host.path().join("neutron"), host.path().join("nova"));
    fs::create_dir_all(owned.join("dhcp/a")).unwrap();
    fs::create_dir_all(other.join("a")).unwrap();
    std::os::unix::fs::chown(&owned, Some(42435), Some(42435)).unwrap();
    let staging = scene.staging();
    let stage = || staging.stage_source(&owned.join("dhcp"), Path::new("a"), false);
    assert!(stage().is_ok());
    assert!(
        staging
            .stage_literal(&owned.join("dhcp"), false)
            .unwrap()
            .is_some()
    );
    fs::rename(owned.join("dhcp"), owned.join("old")).unwrap();
    symlink(&other, owned.join("dhcp")).unwrap();
    assert_eq!(stage().unwrap_err().reason(), Reason::Mount);
    // The same where the operator wrote the whole path.
    let literal = staging.stage_literal(&owned.join("dhcp/a"), false);
    assert_eq!(literal.unwrap_err().reason(), Reason::Mount);
    // What is root's all the way is podman's to walk.
    assert!(
        staging
            .stage_literal(&other.join("a"), false)
            .unwrap()
            .is_none()
    );
}

#[test]
fn dots_and_empty_components_beneath_the_prefix_are_refused() {
    let scene = Scene::new();
    fs::create_dir(scene.path("state/a")).unwrap();
    let staging = scene.staging();
    for rest in [
        "..",
        "../secret",
        "a/../../secret",
        "a/..",
        "a/../a",
        ".",
        "a/.",
        "",
        "a//b",
        "a/",
        "/etc",
    ] {
        let error = scene.refusal_of_source(&staging, rest);
        assert!(matches!(error, StagingError::SourceName(_)), "{error}");
    }
}

#[test]
fn a_fifo_or_a_device_is_no_mount_source_and_does_not_block() {
    let scene = Scene::new();
    special(&scene.path("state/fifo"), FileType::Fifo);
    special(&scene.path("state/zero"), FileType::CharacterDevice);
    special(&scene.path("state/disk"), FileType::BlockDevice);
    let staging = scene.staging();
    for rest in ["fifo", "zero", "disk"] {
        let error = scene.refusal_of_source(&staging, rest);
        assert!(matches!(error, StagingError::SourceKind { .. }), "{error}");
    }
    let error = scene.refusal_of_source(&staging, "missing");
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_mount_source_swapped_ten_thousand_times_is_never_the_wrong_one() {
    let scene = Scene::new();
    let state = scene.path("state");
    fs::create_dir_all(state.join("a/b")).unwrap();
    // The agent's copies of the same names, that lead to the secret: one for each component.
    symlink(scene.path("secret"), state.join("a/evil")).unwrap();
    symlink(scene.path("secret"), scene.path("state/evil")).unwrap();
    fs::create_dir(scene.path("secret/b")).unwrap();
    special(&state.join("a/fifo"), FileType::Fifo);
    let good = fs::metadata(state.join("a/b")).unwrap().ino();
    let staging = scene.staging();
    let race = Race::default();

    let swap = || {
        for (name, evil) in [("a/b", "a/evil"), ("a", "evil"), ("a/b", "a/fifo")] {
            for _ in 0..2 {
                let (name, evil) = (state.join(name), state.join(evil));
                renameat_with(CWD, name, CWD, evil, RenameFlags::EXCHANGE).unwrap();
                race.swapped();
            }
        }
    };
    let (staged, refused) = race.run(swap, || {
        let path = staging.stage_source(&state, Path::new("a/b"), false)?;
        assert_eq!(fs::metadata(path.path()).unwrap().ino(), good);
        path.release()
    });
    assert!(staged > 0 && refused.len() >= 2, "{staged}, {refused:?}");
    assert_nothing_is_left_in(staging.path());
}

#[test]
fn what_is_mounted_beneath_a_source_is_not_staged_with_it_nor_does_it_come_later() {
    let scene = Scene::new();
    let state = scene.path("state");
    // A shared mount, as systemd makes all of them.
    rustix::mount::mount_bind(&state, &state).unwrap();
    rustix::mount::mount_change(&state, MountPropagationFlags::SHARED).unwrap();
    for name in ["a", "a/before", "a/after"] {
        fs::create_dir(state.join(name)).unwrap();
    }
    rustix::mount::mount_bind(scene.path("secret"), state.join("a/before")).unwrap();
    let staging = scene.staging();
    let staged = staging.stage_source(&state, Path::new("a"), true).unwrap();
    rustix::mount::mount_bind(scene.path("secret"), state.join("a/after")).unwrap();
    for name in ["before/key", "after/key"] {
        assert!(state.join("a").join(name).exists());
        assert!(!staged.path().join(name).exists());
    }
}

// The staging area

#[test]
fn the_area_is_roots_alone_small_and_inert() {
    let scene = Scene::new();
    let staging = scene.staging();
    let file = fs::metadata(staging.path()).unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o700, 0));
    let mounts = mounts_beneath(staging.path());
    assert_eq!(mounts.len(), 1);
    let options = &mounts[0].1;
    for option in [
        "rw,nosuid,nodev,noexec",
        "unbindable",
        "size=64k",
        "nr_inodes=4096",
    ] {
        assert!(options.contains(option), "{options}");
    }
    assert!(!options.contains("shared:"), "{options}");
}

#[test]
fn a_directory_that_others_may_write_is_no_place_for_the_area() {
    let scene = Scene::new();
    let run = scene.path("run");
    for mode in [0o770, 0o702, 0o1777] {
        rustix::fs::chmod(&run, Mode::from_raw_mode(mode)).unwrap();
        let error = Staging::new(&run).unwrap_err();
        assert!(error.to_string().contains("chmod 0700"), "{error}");
    }
    rustix::fs::chmod(&run, Mode::RWXU).unwrap();
    std::os::unix::fs::chown(&run, Some(12345), None).unwrap();
    assert!(Staging::new(&run).is_err());
    assert!(Staging::new(&scene.path("missing")).is_err());
    assert!(Staging::new(&scene.path("secret/key")).is_err());
    fs::create_dir(scene.path("with:colon")).unwrap();
    assert!(Staging::new(&scene.path("with:colon")).is_err());
    assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
}

#[test]
fn a_container_that_is_given_the_launchers_directory_sees_nothing_staged() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path("state/a/b")).unwrap();
    fs::create_dir_all(scene.path("peer")).unwrap();
    fs::create_dir_all(scene.path("bound")).unwrap();
    // A container that shares /run with the host, before.
    let run = scene.path("run");
    rustix::mount::mount_bind(&run, &run).unwrap();
    // A host's mounts are shared, and with the one beneath it this one would have each of its own twice.
    for propagation in [
        MountPropagationFlags::PRIVATE,
        MountPropagationFlags::SHARED,
    ] {
        rustix::mount::mount_change(&run, propagation).unwrap();
    }
    rustix::mount::mount_bind(&run, scene.path("peer")).unwrap();

    let staging = scene.staging();
    let life = staging.path().file_name().unwrap().to_owned();
    let stage = || staging.stage_source(&scene.path("state"), Path::new("a"), true);
    let before = stage().unwrap();
    // And one that is given all of it, while something is staged.
    rustix::mount::mount_bind_recursive(&run, scene.path("bound")).unwrap();
    let after = stage().unwrap();
    for staged in [&before, &after] {
        assert!(staged.path().join("b").exists());
        let name = staged.path().file_name().unwrap();
        for other in ["peer", "bound"] {
            assert!(!scene.path(other).join(&life).join(name).join("b").exists());
        }
    }
    // Where a copy of the empty area did come, nobody can write into ours through it.
    let copy = scene.path("peer").join(&life);
    let error = fs::write(copy.join("planted"), "").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    drop((before, after));
    assert_nothing_is_left_in(staging.path());
    drop(staging);
    assert_eq!(fs::read_dir(scene.path("peer")).unwrap().count(), 0);
}

#[test]
fn a_mount_namespace_that_copied_what_is_staged_loses_it_with_the_name() {
    let scene = Scene::new();
    fs::create_dir(scene.path("state/a")).unwrap();
    namespace("net", &scene.path("netns/n"));
    let staging = scene.staging();
    let ns = Staging::resolve_netns(&scene.path("netns"), "n").unwrap();
    let source = staging.stage_source(&scene.path("state"), Path::new("a"), true);
    let (ns, source) = (staging.stage_netns(&ns).unwrap(), source.unwrap());
    let mut container = Command::new("unshare")
        .args(["--mount", "--propagation=private", "sh", "-c", "echo; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0];
    container
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    let copies = |name: &Path| {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", container.id())).unwrap();
        table.matches(&format!(" {}", name.display())).count()
    };
    assert_eq!((copies(ns.path()), copies(source.path())), (1, 1));
    ns.release().unwrap();
    source.release().unwrap();
    assert_eq!(copies(staging.path()), 1, "the empty area");
    let area = staging.path().to_owned();
    drop(staging);
    assert_eq!(copies(&area), 0);
    drop(container.stdin.take());
    container.wait().unwrap();
}

#[test]
fn names_are_not_used_twice_by_threads_nor_by_lives() {
    let scene = Scene::new();
    fs::create_dir(scene.path("state/a")).unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let staging = scene.staging();
        let names = thread::scope(|scope| {
            let stage = || {
                let stage = || staging.stage_source(&scene.path("state"), Path::new("a"), true);
                let paths = (0..25).map(|_| stage().unwrap().path().to_owned());
                paths.collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(stage)).collect();
            let names = threads.into_iter().flat_map(|t| t.join().unwrap());
            names.collect::<Vec<_>>()
        });
        assert_nothing_is_left_in(staging.path());
        seen.extend(names);
    }
    assert_eq!(seen.len(), 200);
}

#[test]
fn what_a_life_that_was_killed_left_is_swept_and_nothing_else() {
    let scene = Scene::new();
    namespace("net", &scene.path("netns/n"));
    fs::create_dir(scene.path("state/a")).unwrap();
    fs::write(scene.path("state/a/file"), "kept").unwrap();
    let run = scene.path("run");
    let leave = || {
        let staging = scene.staging();
        let ns = Staging::resolve_netns(&scene.path("netns"), "n").unwrap();
        std::mem::forget(staging.stage_netns(&ns).unwrap());
        let staged = staging.stage_source(&scene.path("state"), Path::new("a"), false);
        std::mem::forget(staged.unwrap());
        let path = staging.path().to_owned();
        std::mem::forget(staging);
        path
    };
    let (killed, needed) = (leave(), leave());
    // Twice over, and somebody else's in the same directory.
    rustix::mount::mount_bind(scene.path("state"), &killed).unwrap();
    fs::create_dir(run.join("other")).unwrap();
    rustix::mount::mount_bind(scene.path("state"), run.join("other")).unwrap();
    fs::create_dir(run.join("staging-full")).unwrap();
    fs::write(run.join("staging-full/file"), "").unwrap();

    let failures = Staging::sweep(&run, Some(&needed));
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].to_string().contains("staging-full"));
    assert!(run.join("staging-full/file").exists());
    assert!(!killed.exists());
    assert_eq!(mounts_beneath(&needed).len(), 3);
    assert!(run.join("other/a/file").exists());

    fs::remove_file(run.join("staging-full/file")).unwrap();
    assert!(Staging::sweep(&run, None).is_empty());
    assert!(!needed.exists());
    assert_eq!(fs::read_dir(&run).unwrap().count(), 1);
    assert_eq!(mounts_beneath(&run).len(), 1);
    assert_eq!(
        fs::read_to_string(scene.path("state/a/file")).unwrap(),
        "kept"
    );
    assert!(Staging::sweep(&scene.path("missing"), None).is_empty());
}
