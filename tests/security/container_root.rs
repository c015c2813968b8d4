//! An agent that is uid 0 in its container, without a user namespace and with default capabilities: it makes its
//! directories root's, and then puts links, hard links and moved directories on the way to what the policy names.

use portcullis_tests::{Agent, ContainerRoot, Host, Netns, denied, holds, launch, launched, uuid};
use portcullis_wire::{Launch, Reason};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use std::fs;
use std::path::{Path, PathBuf};

const SLEEP: &str = r#"
[[launch]]
rule = "sleep"
command = "sleep"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }]
[launch.container]
name = "sleep-{seconds}"
user = "0:0"
"#;

/// A directory of the host's that holds a file which no side container may see.
fn secret(root: &ContainerRoot<'_>) -> PathBuf {
    let path = root.make("secret");
    fs::write(path.join("evil"), "evil").unwrap();
    path
}

/// An agent with one rule, `get ID`, that mounts this source at /data.
fn with_source<'h>(host: &'h Host, source: &str) -> Agent<'h> {
    let rule = format!(
        r#"
[[launch]]
rule = "get"
command = "get"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "sh"]
args = [{{ min = 1, pattern = "{{id:uuid}}" }}]
[launch.container]
name = "get-{{id}}"
user = "0:0"
mounts = [{{ source = "{source}", target = "/data", mode = "rw" }}]
"#
    );
    host.agent("blue", &rule)
}

/// The launch is denied, with that in the audit record, and podman is not called.
#[track_caller]
fn source_is_refused(agent: &Agent<'_>, id: &str, why: &str) {
    let _service = agent.start();
    let reply = agent.client().launch(launch("get", &[id]));
    assert_eq!(denied(reply), Reason::Mount);
    assert!(agent.host().engine().calls().runs().is_empty());
    let log = fs::read_to_string(agent.log()).unwrap();
    assert!(log.contains(why), "{why}: {log}");
}

/// The operator wrote the whole path, and the agent can write a directory on the way.
#[test]
fn root_agents_link_in_literal_source_is_refused() {
    let host = Host::new();
    let root = ContainerRoot::new(&host);
    let (secret, source) = (secret(&root), root.make("agent/dhcp/conf"));
    let agent = with_source(&host, source.to_str().unwrap());
    let link = format!("{} -> {}", source.display(), secret.display());
    root.runs(&format!(
        "mv dhcp/conf old; ln -s {} dhcp/conf",
        secret.display()
    ));
    source_is_refused(&agent, &uuid(), &link);
}

/// The same one directory further up, and with a value of the request at the end.
#[test]
fn root_agents_link_before_captured_source_is_refused() {
    let host = Host::new();
    let root = ContainerRoot::new(&host);
    let (secret, id) = (secret(&root), uuid());
    fs::create_dir(secret.join(&id)).unwrap();
    let prefix = root.make("agent/dhcp");
    let _ = root.make(&format!("agent/dhcp/{id}"));
    let agent = with_source(&host, &format!("{}/{{id}}", prefix.display()));
    let link = format!("{} -> {}", prefix.display(), secret.display());
    root.runs(&format!("mv dhcp old; ln -s {} dhcp", secret.display()));
    source_is_refused(&agent, &id, &link);
}

#[test]
fn root_agents_link_in_captured_part_is_refused() {
    let host = Host::new();
    let root = ContainerRoot::new(&host);
    let (secret, id) = (secret(&root), uuid());
    let prefix = root.make("agent/dhcp");
    let agent = with_source(&host, &format!("{}/{{id}}", prefix.display()));
    root.runs(&format!("ln -s {} dhcp/{id}", secret.display()));
    source_is_refused(&agent, &id, "a symbolic link is in its way");
}

/// A relative link needs no path of the host's, and `/proc/1/root` is one that has no text to follow.
#[test]
fn root_agents_relative_and_magic_links_are_refused() {
    for target in ["../secret", "/proc/1/root/etc", "/proc/self/cwd"] {
        let host = Host::new();
        let root = ContainerRoot::new(&host);
        let _ = secret(&root);
        let source = root.make("agent/conf");
        let agent = with_source(&host, source.to_str().unwrap());
        root.runs(&format!("rmdir conf; ln -s {target} conf"));
        source_is_refused(&agent, &uuid(), "a symbolic link is in its way");
    }
}

/// A directory of the agent's own in the place of another is harmless: whatever it puts there, it could have put there.
#[test]
fn root_agents_own_directories_may_change_places() {
    let host = Host::new();
    let root = ContainerRoot::new(&host);
    let source = root.make("agent/conf");
    let agent = with_source(&host, source.to_str().unwrap());
    root.runs("mv conf old; mkdir conf; touch conf/mine");
    let _service = agent.start();
    let answer = launched(agent.client().launch(launch("get", &[&uuid()])));
    assert!(answer.process().file("root/data/mine").exists());
}

/// What the host mounts beneath the agent's directory hangs on a directory, and that can be moved to where a source is.
#[test]
fn root_agent_moves_hidden_mount_to_source_refused() {
    let host = Host::new();
    let root = ContainerRoot::new(&host);
    let (secret, id) = (secret(&root), uuid());
    let (prefix, hidden) = (root.make("agent/dhcp"), root.make("agent/hidden"));
    let agent = with_source(&host, &format!("{}/{{id}}", prefix.display()));
    root.starts();
    mount_bind(&secret, &hidden).unwrap();
    root.runs_inside(&format!("mv hidden dhcp/{id}"));
    let moved = prefix.join(&id);
    assert!(moved.join("evil").exists(), "the mount moved along");
    source_is_refused(&agent, &id, "something is mounted in its way");
    unmount(&moved, UnmountFlags::DETACH).unwrap();
}

/// `netns_dir` is the host configuration's, and an agent may have it mounted.
#[test]
fn root_agents_link_in_netns_dir_is_refused() {
    let host = Host::new();
    let root = ContainerRoot::new(&host);
    let (names, other) = (root.make("agent/netns"), root.make("other"));
    let netns = Netns::new();
    let rule = SLEEP.replace("spool = true\n", "netns = \"{name:word}\"\n");
    let agent = host.agent("blue", &rule);
    let agent = agent.engine(&format!("netns_dir = {names:?}"));
    fs::write(other.join("n"), "").unwrap();
    mount_bind(netns.path(), other.join("n")).unwrap();
    root.runs(&format!("rmdir netns; ln -s {} netns", other.display()));
    let _service = agent.start();
    let request = Launch {
        netns: Some("n".into()),
        ..launch("sleep", &["1000"])
    };
    let reply = agent.client().launch(request);
    unmount(other.join("n"), UnmountFlags::DETACH).unwrap();
    assert_eq!(denied(reply), Reason::Netns);
    assert!(host.engine().calls().runs().is_empty());
}

#[track_caller]
fn spool_has_a_problem(agent: &Agent<'_>, dir: &Path, why: &str) {
    holds(&format!("an error of the spool, {why}"), || {
        let errors = agent.audit().errors_of(dir);
        errors.iter().any(|error| error.contains(why))
    });
    assert!(agent.host().engine().calls().runs().is_empty());
}

/// Another agent's lines would be taken, launched as this one's, and lost to it.
#[test]
fn root_agents_link_to_neighbours_spool_takes_nothing() {
    let host = Host::new();
    let root = ContainerRoot::new(&host);
    let (ours, theirs) = (root.make("agent/spool"), root.make("neighbour"));
    fs::write(theirs.join("processes"), "'' 1001\n").unwrap();
    let policy = format!("{SLEEP}\n[[spool]]\ncommand = \"sleep\"\ndir = {ours:?}\n");
    let agent = host.agent("blue", &policy);
    root.runs(&format!("rmdir spool; ln -s {} spool", theirs.display()));
    let _service = agent.start();
    spool_has_a_problem(&agent, &ours, "symbolic link");
    let lines = fs::read_to_string(theirs.join("processes")).unwrap();
    assert_eq!(lines, "'' 1001\n");
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1, "no lock either");
}

#[test]
fn root_agents_link_before_lock_makes_no_file() {
    let host = Host::new();
    let root = ContainerRoot::new(&host);
    let (spool, locks) = (root.make("agent/spool"), root.make("agent/locks"));
    let secret = secret(&root);
    let lock = locks.join("sleep.lock");
    let policy =
        format!("{SLEEP}\n[[spool]]\ncommand = \"sleep\"\ndir = {spool:?}\nlock = {lock:?}\n");
    let agent = host.agent("blue", &policy);
    root.runs(&format!("rmdir locks; ln -s {} locks", secret.display()));
    fs::write(spool.join("processes"), "'' 1001\n").unwrap();
    let _service = agent.start();
    spool_has_a_problem(&agent, &spool, "symbolic link");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1, "evil alone");
}

/// Links and hard links in the place of the lines and of the lock itself, each of them root's.
#[test]
fn root_agents_links_in_place_of_spool_files_are_refused() {
    for (script, why) in [
        ("ln -s ../../secret/lines spool/processes", "symbolic link"),
        ("ln -s ../../secret/lines spool/lock", "symbolic link"),
        ("ln other spool/processes", "hard link"),
        ("ln other spool/lock", "hard link"),
        ("mkfifo spool/processes", "FIFO"),
        ("mknod spool/processes c 1 5", "device"),
    ] {
        let host = Host::new();
        let root = ContainerRoot::new(&host);
        let spool = root.make("agent/spool");
        let lines = root.make("secret").join("lines");
        fs::write(&lines, "'' 1001\n").unwrap();
        let policy = format!("{SLEEP}\n[[spool]]\ncommand = \"sleep\"\ndir = {spool:?}\n");
        let agent = host.agent("blue", &policy);
        root.runs(&format!("echo \"'' 1002\" >other; {script}"));
        let _service = agent.start();
        spool_has_a_problem(&agent, &spool, why);
        assert_eq!(fs::read_to_string(&lines).unwrap(), "'' 1001\n", "{script}");
    }
}

/// The pid file lies in a directory that agent and side container share.
#[test]
fn root_agents_link_as_pid_file_is_not_ready() {
    for script in [
        "ln -s /proc/1/root/evil pids/pid",
        "ln -s other pids/pid",
        "mkfifo pids/pid",
    ] {
        let host = Host::new();
        let root = ContainerRoot::new(&host);
        let pids = root.make("agent/pids");
        let rule = SLEEP.replace("spool = true\n", "")
            + &format!(
                "mounts = [{{ source = {pids:?}, target = \"/pids\", mode = \"ro\" }}]\nready = {{ pid_file = \"/pids/pid\", timeout = \"2s\" }}\n"
            );
        let agent = host.agent("blue", &rule);
        root.runs(&format!("echo 1 >pids/other; {script}"));
        let _service = agent.start();
        let reply = agent.client().launch(launch("sleep", &["1000"]));
        let failure = portcullis_tests::failed(reply);
        assert_eq!(failure.reason, Reason::Timeout, "{script}");
    }
}
