//! Mount sources that an agent can write to: links, special files, and swaps between check and use
//! (CVE-2017-1002101, CVE-2021-25741).

use portcullis_tests::{Agent, Host, Process, Stop, denied, holds, launch, launched, uuid};
use portcullis_wire::{Launch, Reason, Reply, State};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

const RULES: &str = r#"
[limits]
launches = "1000000/s"
[[launch]]
rule = "rw"
command = "rw"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "sh"]
args = [{ min = 1, pattern = "{id:uuid}" }]
[launch.container]
name = "rw-{id}"
user = "0:0"
mounts = [{ source = "{shared}/{id}/data", target = "/data", mode = "rw" }]

[[launch]]
rule = "ro"
command = "ro"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "sh"]
args = [{ min = 1, pattern = "{id:uuid}" }]
[launch.container]
name = "ro-{id}"
user = "0:0"
mounts = [{ source = "{shared}/{id}/data", target = "/data", mode = "ro" }]

[[launch]]
rule = "many"
command = "many"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "sh"]
args = [{ min = 1, pattern = "{n:int}" }, { min = 1, pattern = "--id={id:uuid}" }]
[launch.container]
name = "many-{n}"
user = "0:0"
mounts = [{ source = "{shared}/{id}/data", target = "/data", mode = "rw" }]
"#;

/// A source `{shared}/UUID/data` that each test fills in its own way.
struct Source {
    id: String,
    path: PathBuf,
}

impl Source {
    fn new(host: &Host) -> Self {
        let id = uuid();
        let path = host.shared().join(&id).join("data");
        fs::create_dir(path.parent().unwrap()).unwrap();
        Self { id, path }
    }

    fn directory(host: &Host) -> Self {
        let source = Self::new(host);
        fs::create_dir(&source.path).unwrap();
        fs::write(source.path.join("good"), "good").unwrap();
        source
    }
}

/// A directory of the host that no agent may see.
fn secret(host: &Host) -> PathBuf {
    let path = host.path().join("secret");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("evil"), "evil").unwrap();
    path
}

#[track_caller]
fn refused(agent: &Agent, source: &Source) {
    let _service = agent.start();
    let mut client = agent.client();
    for command in ["rw", "ro"] {
        let reply = client.launch(launch(command, &[&source.id]));
        assert_eq!(denied(reply), Reason::Mount, "{command}");
    }
    assert!(agent.host().engine().calls().runs().is_empty());
}

fn mounts(process: Process) -> Vec<String> {
    let text = fs::read_to_string(process.file("mountinfo")).unwrap();
    text.lines().map(ToOwned::to_owned).collect()
}

fn mounted_at(process: Process, target: &str) -> Option<String> {
    let mut all = mounts(process).into_iter();
    all.find(|line| line.split(' ').nth(4) == Some(target))
}

#[test]
fn a_directory_beneath_the_prefix_is_mounted_and_no_other() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let source = Source::directory(&host);
    let _service = agent.start();
    let mut client = agent.client();
    let answer = launched(client.launch(launch("rw", &[&source.id])));
    let process = answer.process();
    fs::write(process.file("root/data/by-us"), "x").unwrap();
    assert!(source.path.join("by-us").exists());
    let line = mounted_at(process, "/data").unwrap();
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
}

#[test]
fn a_read_only_mount_cannot_be_written_to() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let source = Source::directory(&host);
    let _service = agent.start();
    let answer = launched(agent.client().launch(launch("ro", &[&source.id])));
    let process = answer.process();
    let line = mounted_at(process, "/data").unwrap();
    let options = line.split(' ').nth(5).unwrap();
    assert!(options.split(',').any(|o| o == "ro"), "{line}");
    let inside = format!("/proc/{}/root/data/by-us", process.pid);
    let error = fs::write(inside, "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_file_and_a_socket_can_be_mounted() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let file = Source::new(&host);
    fs::write(&file.path, "a file").unwrap();
    let socket = Source::new(&host);
    let _listener = UnixListener::bind(&socket.path).unwrap();
    let _service = agent.start();
    let mut client = agent.client();
    let answer = launched(client.launch(launch("ro", &[&file.id])));
    let inside = answer.process().file("root/data");
    assert_eq!(fs::read_to_string(inside).unwrap(), "a file");
    let _ = launched(client.launch(launch("rw", &[&socket.id])));
}

#[test]
fn a_symlink_beneath_the_literal_prefix_is_refused() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let source = Source::new(&host);
    symlink(secret(&host), &source.path).unwrap();
    refused(&agent, &source);
}

#[test]
fn a_symlink_that_stays_beneath_the_prefix_is_refused_too() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let (source, other) = (Source::new(&host), Source::directory(&host));
    symlink(format!("../{}/data", other.id), &source.path).unwrap();
    refused(&agent, &source);
}

#[test]
fn a_symlink_on_the_way_is_refused() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let secret = secret(&host);
    fs::create_dir(secret.join("data")).unwrap();
    let id = uuid();
    symlink(&secret, host.shared().join(&id)).unwrap();
    let path = host.shared().join(&id).join("data");
    refused(&agent, &Source { id, path });
}

#[test]
fn a_way_upwards_is_refused() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let mut client = agent.client();
    for id in ["..", "../secret", "x/../..", "/etc", ""] {
        let reply = client.launch(launch("rw", &[id]));
        assert_eq!(denied(reply), Reason::Argument, "{id:?}");
    }
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn a_missing_source_is_refused() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    refused(&agent, &Source::new(&host));
}

#[test]
fn a_fifo_as_source_is_refused_and_blocks_nobody() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let source = Source::new(&host);
    assert!(
        Command::new("mkfifo")
            .arg(&source.path)
            .status()
            .unwrap()
            .success()
    );
    refused(&agent, &source);
}

#[test]
fn a_device_as_source_is_refused() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let source = Source::new(&host);
    let mut mknod = Command::new("mknod");
    mknod.arg(&source.path).args(["c", "1", "3"]);
    assert!(mknod.status().unwrap().success());
    refused(&agent, &source);
}

/// The directory and a link to the secret change places, as fast as the machine can, during 60 launches.
#[test]
fn a_source_swapped_between_check_and_use_is_never_the_wrong_one() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let source = Source::directory(&host);
    let link = source.path.with_file_name("link");
    symlink(secret(&host), &link).unwrap();
    let _service = agent.start();
    let (end, refusals) = (AtomicBool::new(false), AtomicBool::new(false));
    let launches = thread::scope(|scope| {
        let stop = Stop::at(&end);
        let swapper = scope.spawn(|| {
            while !end.load(Relaxed) {
                renameat_with(CWD, &source.path, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (agent, source, refusals) = (&agent, &source, &refusals);
                scope.spawn(move || {
                    let mut client = agent.client();
                    let (mut n, mut launches) = (1_000_000 * (worker + 1), 0);
                    while launches < 15 {
                        n += 1;
                        let id = format!("--id={}", source.id);
                        let request: Launch = launch("many", &[&n.to_string(), &id]);
                        match client.launch_patiently(&request) {
                            Reply::Denied {
                                reason: Reason::Mount,
                                ..
                            } => refusals.store(true, Relaxed),
                            reply => {
                                let _ = launched(reply);
                                launches += 1;
                            }
                        }
                    }
                    launches
                })
            })
            .collect();
        let launches: usize = workers.into_iter().map(|w| w.join().unwrap()).sum();
        drop(stop);
        swapper.join().unwrap();
        launches
    });
    assert!(refusals.load(Relaxed), "the swaps were seen");
    let containers = host.engine().containers();
    assert_eq!(containers.len(), launches);
    for container in containers {
        let data = container.process().file("root/data");
        assert!(data.join("good").exists(), "{}", container.name);
        assert!(!data.join("evil").exists(), "{}", container.name);
    }
}

#[test]
fn nothing_of_the_staging_area_is_visible_in_a_container_and_nothing_is_left_of_it() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let source = Source::directory(&host);
    let service = agent.start();
    let mut client = agent.client();
    let answer = launched(client.launch(launch("rw", &[&source.id])));
    let private = agent.private().display().to_string();
    let process = answer.process();
    for line in mounts(process) {
        assert!(!line.contains(&private), "{line}");
    }
    assert!(
        !Path::new(&process.file("root"))
            .join(private.trim_start_matches('/'))
            .exists()
    );
    // A refusal after something was staged leaves as little.
    let missing = Source::new(&host);
    assert_eq!(
        denied(client.launch(launch("rw", &[&missing.id]))),
        Reason::Mount
    );
    let staged = |process: Process| -> Vec<String> {
        let mut lines = mounts(process);
        lines.retain(|line| line.contains(&private));
        lines
    };
    holds("one private tmpfs and nothing in it", || {
        let lines = staged(service.launcher());
        lines.len() <= 1 && lines.iter().all(|l| l.contains(" - tmpfs ")) && {
            let point = lines
                .first()
                .and_then(|l| l.split(' ').nth(4).map(PathBuf::from));
            point.is_none_or(|p| fs::read_dir(p).unwrap().next().is_none())
        }
    });
    let me = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(service.stop().success());
    assert_eq!(
        staged(me),
        Vec::<String>::new(),
        "nothing after a clean stop"
    );
}

#[test]
fn what_a_killed_launcher_left_staged_is_gone_after_the_next_start() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let source = Source::directory(&host);
    host.engine().hang("run", "");
    let service = agent.start();
    let mut client = agent.client();
    let request = portcullis_wire::Body::Launch(launch("rw", &[&source.id]));
    client.send(request).unwrap();
    holds("podman is called", || {
        !host.engine().calls().runs().is_empty()
    });
    let private = agent.private().display().to_string();
    let me = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
    let staged = || {
        mounts(me)
            .iter()
            .filter(|line| line.contains(&private))
            .count()
    };
    assert!(staged() > 1, "the source is staged");
    service.kill();
    assert!(staged() > 1, "and stays so");
    // Its podman may still need that: it is taken down by the first launcher that ends or starts with none at work.
    let service = agent.start();
    assert!(service.operator().is_served());
    assert!(staged() > 1, "while that podman is at work");
    host.engine().release("run");
    // Once the launcher has seen it run, no podman of its own looks for it either.
    holds("what was asked for runs", || {
        let items = service.list(true);
        items.iter().any(|item| item.state == State::Running)
    });
    let runs = host.engine().container(&format!("rw-{}", source.id));
    assert!(runs.process().file("root/data/good").exists());
    assert!(service.stop().success());
    assert_eq!(staged(), 0);
}

/// Two mounts, the second one beneath the first.
const NESTED: &str = r#"
[[launch]]
rule = "nested"
command = "nested"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "sh"]
args = [{ min = 1, pattern = "{id:uuid}" }]
[launch.container]
name = "nested-{id}"
user = "0:0"
mounts = [
  OUTER,
  { source = "{shared}/{id}/tools", target = "/jobs/tools", mode = "ro" },
]
"#;

/// Fills two directories of the agent's: a link to the program's directory in the place of the inner target, and the code
/// that is to be mounted over it.
fn plant(host: &Host, work: &Path, tools: &Path) {
    fs::create_dir_all(work).unwrap();
    fs::create_dir_all(tools).unwrap();
    symlink("/bin", work.join("tools")).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(host.image_file()).arg("-C").arg(tools);
    let busybox = ["--strip-components=3", "--wildcards", "*bin/busybox"];
    assert!(tar.args(busybox).status().unwrap().success());
    let script =
        "#!/bin/busybox sh\n/bin/busybox touch /marks/taken\nexec /bin/busybox sleep 1000\n";
    fs::write(tools.join("sh"), script).unwrap();
    fs::set_permissions(tools.join("sh"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The runtime follows links of the container when it looks for a mount's target. With a link in its own directory, in the
/// place of the inner target, the agent would have its files mounted over those of the image, and its code run as the program.
#[test]
fn nested_target_cannot_replace_program() {
    for outer in [
        r#"{ source = "{shared}/{id}/jobs", target = "/jobs", mode = "rw" }"#,
        r#"{ source = "{shared}/{id}/jobs", target = "/jobs", mode = "ro" }"#,
        r#"{ source = "{shared}/jobs", target = "/jobs", mode = "rw" }"#,
        // The policy shows by its other mount that the agent writes there.
        r#"{ source = "{shared}/jobs", target = "/jobs", mode = "ro" }"#,
    ] {
        let host = Host::new();
        let marks = host.path().join("marks");
        fs::create_dir(&marks).unwrap();
        let marked = format!(
            "{outer},\n  {{ source = \"{}\", target = \"/marks\", mode = \"rw\" }}",
            marks.display()
        );
        let agent = host.agent("blue", &NESTED.replace("OUTER", &marked));
        let id = uuid();
        let own = host.shared().join(&id);
        for work in [own.join("work"), host.shared().join("work")] {
            plant(&host, &work, &own.join("tools"));
        }
        let _service = agent.start();
        let reply = agent.client().launch(launch("nested", &[&id]));
        let taken = marks.join("taken").exists();
        assert_eq!(denied(reply), Reason::PolicyUnavailable, "{outer}: {taken}");
        assert!(host.engine().calls().runs().is_empty());
    }
}

#[test]
fn target_beneath_operators_mount_is_mounted() {
    let host = Host::new();
    let operators = host.path().join("operators");
    fs::create_dir_all(operators.join("tools")).unwrap();
    let outer = format!(
        "{{ source = \"{}\", target = \"/jobs\", mode = \"ro\" }}",
        operators.display()
    );
    let agent = host.agent("blue", &NESTED.replace("OUTER", &outer));
    let id = uuid();
    let tools = host.shared().join(&id).join("tools");
    fs::create_dir_all(&tools).unwrap();
    fs::write(tools.join("good"), "good").unwrap();
    let _service = agent.start();
    let answer = launched(agent.client().launch(launch("nested", &[&id])));
    assert!(answer.process().file("root/jobs/tools/good").exists());
}
