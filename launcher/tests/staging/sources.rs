//! Mount sources: links, special files, moved mounts, and swaps between check and use; what is mounted beneath them.

use crate::{Race, Scene, assert_nothing_is_left_in, mounts_beneath, special};
use portcullis_launcher::staging::StagingError;
use portcullis_wire::Reason;
use rustix::fs::{CWD, FileType, RenameFlags, renameat_with};
use rustix::mount::MountPropagationFlags;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

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

/// A directory that is root's on the whole way: what an agent that is uid 0 makes of its own.
fn roots_own() -> TempDir {
    tempfile::tempdir_in("/run").unwrap()
}

#[test]
fn link_in_the_prefix_is_refused_whoever_made_it() {
    let host = roots_own();
    let scene = Scene::new();
    fs::create_dir_all(host.path().join("state/a")).unwrap();
    symlink("state", host.path().join("relative")).unwrap();
    symlink(host.path().join("state"), host.path().join("absolute")).unwrap();
    let staging = scene.staging();
    for (prefix, why) in [
        ("relative", "relative -> state"),
        ("absolute", "absolute -> /run/"),
        ("state/../state", "`..`"),
    ] {
        let prefix = host.path().join(prefix);
        let captured = staging.stage_source(&prefix, Path::new("a"), true);
        let literal = staging.stage_literal(&prefix.join("a"), true);
        for error in [captured.unwrap_err(), literal.unwrap_err()] {
            assert_eq!(error.reason(), Reason::Mount);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
    let state = host.path().join("state");
    assert!(staging.stage_source(&state, Path::new("a"), true).is_ok());
    assert!(staging.stage_literal(&state.join("a"), true).is_ok());
    assert_nothing_is_left_in(staging.path());
}

/// What a link is called and where it leads is the agent's text, and ends up in a log.
#[test]
fn text_of_a_link_is_escaped_and_cut() {
    let host = roots_own();
    let scene = Scene::new();
    symlink("\u{1b}[2J\n".repeat(500), host.path().join("link")).unwrap();
    let error = scene
        .staging()
        .stage_literal(&host.path().join("link"), true);
    let error = error.unwrap_err().to_string();
    assert!(!error.contains(['\u{1b}', '\n']), "{error}");
    assert!(error.len() < 600, "{error}");
}

#[test]
fn an_agent_that_owns_a_directory_of_the_prefix_cannot_lead_it_elsewhere() {
    // An ordinary agent, and one that is uid 0 and has made its directories root's.
    for uid in [42435, 0] {
        let host = roots_own();
        let scene = Scene::new();
        let (owned, other) = (host.path().join("neutron"), host.path().join("nova"));
        fs::create_dir_all(owned.join("dhcp/a")).unwrap();
        fs::create_dir_all(other.join("a")).unwrap();
        std::os::unix::fs::chown(&owned, Some(uid), Some(uid)).unwrap();
        let staging = scene.staging();
        let stage = || staging.stage_source(&owned.join("dhcp"), Path::new("a"), false);
        let stage_literal = || staging.stage_literal(&owned.join("dhcp/a"), false);
        assert!(stage().is_ok() && stage_literal().is_ok());
        fs::rename(owned.join("dhcp"), owned.join("old")).unwrap();
        symlink(&other, owned.join("dhcp")).unwrap();
        assert_eq!(stage().unwrap_err().reason(), Reason::Mount);
        assert_eq!(stage_literal().unwrap_err().reason(), Reason::Mount);
    }
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

/// The directory of the prefix, which an agent of uid 0 has made root's, and a link change places.
#[test]
fn prefix_swapped_ten_thousand_times_is_never_the_wrong_one() {
    let host = roots_own();
    let scene = Scene::new();
    let at = |name: &str| host.path().join(name);
    fs::create_dir_all(at("agent/dhcp/a")).unwrap();
    fs::create_dir_all(at("secret/a")).unwrap();
    symlink(at("secret"), at("agent/evil")).unwrap();
    symlink("../secret/a", at("agent/dhcp/evil")).unwrap();
    let good = fs::metadata(at("agent/dhcp/a")).unwrap().ino();
    let staging = scene.staging();
    let race = Race::default();
    let swap = || {
        for (name, evil) in [("dhcp", "evil"), ("dhcp/a", "dhcp/evil")] {
            for _ in 0..2 {
                let (name, evil) = (at("agent").join(name), at("agent").join(evil));
                renameat_with(CWD, name, CWD, evil, RenameFlags::EXCHANGE).unwrap();
                race.swapped();
            }
        }
    };
    let turn = AtomicUsize::new(0);
    let (staged, refused) = race.run(swap, || {
        let path = if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            staging.stage_literal(&at("agent/dhcp/a"), false)?
        } else {
            staging.stage_source(&at("agent/dhcp"), Path::new("a"), false)?
        };
        assert_eq!(fs::metadata(path.path()).unwrap().ino(), good);
        path.release()
    });
    assert!(staged > 0 && !refused.is_empty(), "{staged}, {refused:?}");
    assert_nothing_is_left_in(staging.path());
}

/// A source with a file system mounted beneath it, and one that is mounted after it has been staged.
struct Mounted {
    scene: Scene,
    state: PathBuf,
}

impl Mounted {
    fn new() -> Self {
        let scene = Scene::new();
        let state = scene.path("state");
        // A shared mount, as systemd makes all of them.
        rustix::mount::mount_bind(&state, &state).unwrap();
        rustix::mount::mount_change(&state, MountPropagationFlags::SHARED).unwrap();
        for name in ["a", "a/before", "a/after"] {
            fs::create_dir(state.join(name)).unwrap();
        }
        rustix::mount::mount_bind(scene.path("secret"), state.join("a/before")).unwrap();
        Self { scene, state }
    }

    fn mount_the_other(&self) {
        rustix::mount::mount_bind(self.scene.path("secret"), self.state.join("a/after")).unwrap();
    }
}

#[test]
fn captured_source_is_staged_without_submounts() {
    let mounted = Mounted::new();
    let state = &mounted.state;
    let staging = mounted.scene.staging();
    let staged = staging.stage_source(state, Path::new("a"), true).unwrap();
    mounted.mount_the_other();
    for name in ["before/key", "after/key"] {
        assert!(state.join("a").join(name).exists());
        assert!(!staged.path().join(name).exists());
    }
}

#[test]
fn literal_source_is_staged_with_submounts_of_that_moment() {
    let mounted = Mounted::new();
    let state = &mounted.state;
    let staging = mounted.scene.staging();
    let staged = staging.stage_literal(&state.join("a"), true).unwrap();
    mounted.mount_the_other();
    assert!(staged.path().join("before/key").exists());
    assert!(!staged.path().join("after/key").exists());
    let mounts = mounts_beneath(staged.path());
    assert_eq!(mounts.len(), 2);
    for (point, options) in mounts {
        assert!(
            options.starts_with("ro,nosuid,nodev"),
            "{point:?}: {options}"
        );
        assert!(!options.contains("shared:"), "{point:?}: {options}");
    }
    let error = fs::write(staged.path().join("before/new"), "").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    // The host's own mounts are as they were.
    fs::write(state.join("a/before/new"), "").unwrap();
    staged.release().unwrap();
    assert_nothing_is_left_in(staging.path());
    assert!(state.join("a/before/key").exists());
}

/// The agent moves the directory on which the host has mounted something to where a request leads.
#[test]
fn mount_on_the_way_of_a_captured_source_is_not_crossed() {
    let mounted = Mounted::new();
    let state = &mounted.state;
    let staging = mounted.scene.staging();
    fs::create_dir(mounted.scene.path("secret/b")).unwrap();
    for rest in ["a/before", "a/before/key", "a/before/b"] {
        let error = mounted.scene.refusal_of_source(&staging, rest).to_string();
        assert!(error.contains("mounted in its way"), "{error}");
    }
    // The operator's part may be one, and so may be all of it.
    let prefix = state.join("a/before");
    assert!(staging.stage_source(&prefix, Path::new("b"), true).is_ok());
    assert!(staging.stage_literal(&prefix, true).is_ok());
    // A rule that leaves the path to the request from the root on has granted what is mounted there.
    let whole = prefix.strip_prefix("/").unwrap();
    let staged = staging.stage_source(Path::new("/"), whole, true);
    assert!(staged.unwrap().path().join("key").exists());
}

#[test]
fn unbindable_source_is_refused_and_beneath_another_left_out() {
    let mounted = Mounted::new();
    let before = mounted.state.join("a/before");
    rustix::mount::mount_change(&before, MountPropagationFlags::UNBINDABLE).unwrap();
    let staging = mounted.scene.staging();
    let error = staging.stage_literal(&before, true).unwrap_err();
    assert_eq!(error.reason(), Reason::Mount);
    assert!(error.to_string().contains("cannot be cloned"), "{error}");
    assert_nothing_is_left_in(staging.path());
    let staged = staging.stage_literal(&mounted.state.join("a"), true);
    assert!(!staged.unwrap().path().join("before/key").exists());
}
