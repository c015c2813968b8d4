//! Network namespaces: what stands for a name may be anything, and may change at any time.

use crate::{
    Race, Scene, assert_nothing_is_left_in, bind, mounts_beneath, namespace, special,
    user_namespace,
};
use portcullis_launcher::staging::{Staging, StagingError};
use rustix::fs::FileType;
use rustix::mount::UnmountFlags;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

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
    let this =
        "netns::a_bind_mount_of_the_hosts_namespace_is_refused_by_a_launcher_that_is_in_another";
    let inner = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", this])
        .env(HOST, &netns)
        .output()
        .unwrap();
    assert!(inner.status.success(), "{inner:?}");
    let said = String::from_utf8_lossy(&inner.stdout).into_owned();
    assert!(said.contains("1 passed"), "{said}");
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
