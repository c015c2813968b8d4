//! Network namespaces: what stands under `/run/netns` may be anything, and may change at any time.

use portcullis_tests::{Agent, Host, Netns, Process, Stop, denied, holds, launch, launched, uuid};
use portcullis_wire::{Launch, Reason, Reply};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

const RULES: &str = r#"
[limits]
launches = "1000000/s"
[[launch]]
rule = "sleep"
command = "sleep"
netns = "pct-{network:uuid}"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }]
[launch.container]
name = "sleep-{network}-{seconds}"
user = "0:0"
on_conflict = "replace"

[[launch]]
rule = "any"
command = "any"
netns = "{name:word}"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "any"
user = "0:0"
"#;

fn sleep(netns: &str, seconds: u32) -> Launch {
    Launch {
        netns: Some(netns.into()),
        ..launch("sleep", &[&seconds.to_string()])
    }
}

fn inode(process: Process) -> u64 {
    fs::metadata(process.file("ns/net")).unwrap().ino()
}

/// Something under `/run/netns` that is not a good namespace; removed on drop.
struct Entry(PathBuf);

impl Entry {
    fn new() -> Self {
        let path = Path::new("/run/netns").join(format!("pct-{}", uuid()));
        fs::create_dir_all("/run/netns").unwrap();
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.file_name().unwrap().to_str().unwrap()
    }

    fn bind(&self, source: &Path) {
        fs::write(&self.0, "").unwrap();
        rustix::mount::mount_bind(source, &self.0).unwrap();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.0);
    }
}

#[track_caller]
fn refused(agent: &Agent, entry: &Entry) {
    let _service = agent.start();
    let reply = agent.client().launch(sleep(entry.name(), 1000));
    assert_eq!(denied(reply), Reason::Netns);
    assert!(agent.host().engine().calls().runs().is_empty());
}

#[test]
fn a_name_that_is_no_plain_name_is_refused() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let mut client = agent.client();
    for name in [
        "ns:/proc/1/ns/net",
        "/proc/1/ns/net",
        "../../proc/1/ns/net",
        "pct-/../../../proc/1/ns/net",
        "..",
        ".",
        "",
        "host",
        "none",
        "container:x",
        "a,b",
        "-x",
        "pct-00000000-0000-0000-0000-00000000000g",
        "pct-00000000-0000-0000-0000-000000000000/",
        "pct-00000000-0000-0000-0000-000000000000\n",
    ] {
        let reply = client.launch(sleep(name, 1000));
        assert_eq!(denied(reply), Reason::Netns, "{name:?}");
        let reply = client.launch(Launch {
            netns: Some(name.into()),
            ..launch("any", &[])
        });
        assert_eq!(
            denied(reply),
            Reason::Netns,
            "{name:?} where any word is allowed"
        );
    }
    let reply = client.launch(launch("sleep", &["1000"]));
    assert_eq!(denied(reply), Reason::Netns, "none where one is demanded");
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn a_namespace_that_does_not_exist_is_refused() {
    let host = Host::new();
    refused(&host.agent("blue", RULES), &Entry::new());
}

#[test]
fn a_symlink_to_the_hosts_namespace_is_refused() {
    let host = Host::new();
    let entry = Entry::new();
    symlink("/proc/1/ns/net", &entry.0).unwrap();
    refused(&host.agent("blue", RULES), &entry);
}

#[test]
fn a_symlink_to_the_launchers_own_namespace_is_refused() {
    let host = Host::new();
    let entry = Entry::new();
    symlink("/proc/self/ns/net", &entry.0).unwrap();
    refused(&host.agent("blue", RULES), &entry);
}

#[test]
fn a_symlink_to_another_namespace_is_refused() {
    let host = Host::new();
    let other = Netns::new();
    let entry = Entry::new();
    symlink(other.path(), &entry.0).unwrap();
    refused(&host.agent("blue", RULES), &entry);
}

#[test]
fn a_bind_mount_of_the_hosts_namespace_is_refused() {
    let host = Host::new();
    let entry = Entry::new();
    entry.bind(Path::new("/proc/self/ns/net"));
    refused(&host.agent("blue", RULES), &entry);
}

#[test]
fn a_user_namespace_file_is_refused() {
    let host = Host::new();
    let entry = Entry::new();
    // In a container on a build machine there may be no way to make one; the host's own is of the same kind.
    entry.bind(Path::new("/proc/self/ns/user"));
    refused(&host.agent("blue", RULES), &entry);
}

#[test]
fn a_regular_file_is_refused() {
    let host = Host::new();
    let entry = Entry::new();
    fs::write(&entry.0, "x").unwrap();
    refused(&host.agent("blue", RULES), &entry);
}

#[test]
fn a_fifo_is_refused_and_blocks_nobody() {
    let host = Host::new();
    let entry = Entry::new();
    let made = Command::new("mkfifo").arg(&entry.0).status().unwrap();
    assert!(made.success());
    refused(&host.agent("blue", RULES), &entry);
}

#[test]
fn a_directory_is_refused() {
    let host = Host::new();
    let entry = Entry::new();
    fs::create_dir(&entry.0).unwrap();
    refused(&host.agent("blue", RULES), &entry);
    fs::remove_dir(&entry.0).unwrap();
}

#[test]
fn a_good_namespace_is_the_one_that_the_container_gets() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let netns = Netns::new();
    let answer = launched(agent.client().launch(sleep(netns.name(), 1000)));
    let process = answer.process();
    assert_eq!(inode(process), netns.inode());
    // podman was given a staged path that is gone now, not the name.
    let calls = host.engine().calls();
    let network = calls.run_of(&answer.name).values("--network");
    let staged = network[0].strip_prefix("ns:").unwrap();
    assert!(Path::new(staged).starts_with(agent.private()), "{staged}");
    holds("the staged path is gone", || !Path::new(staged).exists());
}

#[test]
fn a_repeat_in_the_same_namespace_is_reused() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let netns = Netns::new();
    let mut client = agent.client();
    let first = launched(client.launch(sleep(netns.name(), 1000)));
    let second = launched(client.launch(sleep(netns.name(), 1000)));
    assert!(!first.reused && second.reused);
    assert_eq!(first.container, second.container);
    assert_eq!(host.engine().calls().runs().len(), 1);
}

#[test]
fn a_namespace_recreated_under_the_same_name_does_not_get_the_old_container() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let netns = Netns::new();
    let mut client = agent.client();
    let first = launched(client.launch(sleep(netns.name(), 1000)));
    netns.recreate();
    let second = launched(client.launch(sleep(netns.name(), 1000)));
    assert!(!second.reused);
    assert_ne!(first.container, second.container);
    assert_eq!(inode(second.process()), netns.inode());
    holds("the old one is gone", || {
        host.engine().containers().len() == 1
    });
}

/// The host's namespace is laid over the good one and taken away again, as fast as the machine can, during 100
/// launches: each gets the good one or none.
#[test]
fn a_namespace_swapped_between_check_and_use_is_never_the_wrong_one() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let netns = Netns::new();
    let good = netns.inode();
    let (end, refusals) = (AtomicBool::new(false), AtomicBool::new(false));
    let answers: Vec<_> = thread::scope(|scope| {
        let stop = Stop::at(&end);
        let swapper = scope.spawn(|| {
            let host = Path::new("/proc/self/ns/net");
            while !end.load(Relaxed) {
                rustix::mount::mount_bind(host, netns.path()).unwrap();
                thread::yield_now();
                rustix::mount::unmount(netns.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
                thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (agent, netns, refusals) = (&agent, &netns, &refusals);
                scope.spawn(move || {
                    let mut client = agent.client();
                    let mut answers = vec![];
                    let mut seconds = 1_000_000 * (worker + 1);
                    while answers.len() < 25 {
                        seconds += 1;
                        match client.launch_patiently(&sleep(netns.name(), seconds)) {
                            Reply::Denied {
                                reason: Reason::Netns,
                                ..
                            } => refusals.store(true, Relaxed),
                            reply => answers.push(launched(reply)),
                        }
                    }
                    answers
                })
            })
            .collect();
        let answers = workers
            .into_iter()
            .flat_map(|w| w.join().unwrap())
            .collect();
        drop(stop);
        swapper.join().unwrap();
        answers
    });
    assert!(refusals.load(Relaxed), "the swaps were seen");
    let containers = host.engine().containers();
    assert_eq!(containers.len(), answers.len());
    for container in containers {
        assert_eq!(inode(container.process()), good, "{}", container.name);
    }
}
