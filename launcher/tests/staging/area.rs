//! The staging area: who sees it, what is left of it.

use crate::{Scene, assert_nothing_is_left_in, mounts_beneath, namespace};
use portcullis_launcher::staging::Staging;
use rustix::fs::Mode;
use rustix::mount::MountPropagationFlags;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

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
    // A side container that is given a source above all of it, and so above itself.
    let above = staging.stage_literal(scene.directory.path(), true).unwrap();
    let area = staging.path().strip_prefix(scene.directory.path()).unwrap();
    let area = above.path().join(area);
    assert_eq!(fs::read_dir(&area).unwrap().count(), 0);
    above.release().unwrap();
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
    // A source with something mounted beneath it, which goes with it.
    fs::create_dir(scene.path("state/a/sub")).unwrap();
    rustix::mount::mount_bind(scene.path("secret"), scene.path("state/a/sub")).unwrap();
    let source = staging.stage_literal(&scene.path("state/a"), true);
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
    assert_eq!((copies(ns.path()), copies(source.path())), (1, 2));
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
    fs::create_dir(scene.path("state/a/sub")).unwrap();
    rustix::mount::mount_bind(scene.path("secret"), scene.path("state/a/sub")).unwrap();
    let run = scene.path("run");
    let leave = || {
        let staging = scene.staging();
        let ns = Staging::resolve_netns(&scene.path("netns"), "n").unwrap();
        std::mem::forget(staging.stage_netns(&ns).unwrap());
        let staged = staging.stage_literal(&scene.path("state/a"), false);
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
    assert_eq!(mounts_beneath(&needed).len(), 4);
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
