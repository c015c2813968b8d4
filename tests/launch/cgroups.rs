//! Each agent's side containers are in a cgroup of their own, so that one agent's leave the others their processor time.

use portcullis_tests::{Host, Process, SLEEP, launch, launched};
use std::fs;
use std::path::{Path, PathBuf};

/// The directory of the group of a process under that controller, with what says its weight.
fn group(process: &Process) -> (PathBuf, &'static str) {
    let groups = fs::read_to_string(process.file("cgroup")).unwrap();
    let of = |controller: &str| {
        groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let has = controllers.split(',').any(|c| c == controller);
            has.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let root = Path::new("/sys/fs/cgroup");
    match of("cpu") {
        Some(path) => (root.join("cpu").join(path), "cpu.shares"),
        None => (root.join(of("").unwrap()), "cpu.weight"),
    }
}

#[test]
fn side_containers_share_their_agents_cgroup() {
    let host = Host::new();
    let agents = ["blue", "red-1"].map(|name| {
        let rules = SLEEP.replace("sleep-{seconds}", &format!("{name}-{{seconds}}"));
        host.agent(name, &rules)
    });
    let [blue, red] = agents.each_ref().map(|agent| agent.start());
    let started = |service: &portcullis_tests::Service, seconds: &str| {
        launched(service.client().launch(launch("sleep", &[seconds]))).process()
    };
    let processes = [
        started(&blue, "1001"),
        started(&blue, "1002"),
        started(&red, "1001"),
    ];
    let parents = processes.each_ref().map(|process| {
        let (group, weight) = group(process);
        let parent = group.ancestors().find(|group| {
            let slices = ["portcullis-blue.slice", r"portcullis-red\x2d1.slice"];
            let mut names = ["blue", "red-1"].into_iter().chain(slices);
            group
                .file_name()
                .is_some_and(|group| names.any(|name| group == name))
        });
        let parent = parent.unwrap_or_else(|| panic!("{group:?}")).to_owned();
        let weight = fs::read_to_string(parent.join(weight)).ok();
        (parent, weight)
    });
    let [first, second, other] = &parents;
    assert_eq!(first, second);
    assert_ne!(first.0, other.0);
    assert_eq!(first.0.parent(), other.0.parent());
    assert_eq!(first.1, other.1, "their weights");
}

#[test]
fn cgroup_parent_none_is_podmans_own() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP).engine("cgroup_parent = \"none\"");
    let service = agent.start();
    let _ = launched(service.client().launch(launch("sleep", &["1001"])));
    let calls = host.engine().calls();
    let options = calls.run_of("sleep-1001").options();
    assert!(!options.iter().any(|o| o.starts_with("--cgroup-parent")));
}

/// With systemd, whose slices are its own to keep, there is nothing to remove.
#[test]
fn stopped_launcher_leaves_no_empty_cgroup() {
    let host = Host::new();
    let agent = host.agent("cgroup-test", SLEEP);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("sleep", &["1"])));
    let (group, _) = group(&answer.process());
    let parent = group.parent().unwrap().to_owned();
    assert!(parent.exists());
    portcullis_tests::holds("it has ended", || service.list(false).is_empty());
    assert!(service.stop().success());
    let manager = host
        .engine()
        .must(&["info", "--format={{.Host.CgroupManager}}"]);
    if manager.trim() == "cgroupfs" {
        assert!(!parent.exists(), "{parent:?}");
    }
}
