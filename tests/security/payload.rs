//! What the payload inherits: the same as from the podman command typed by hand, and nothing of ours.

use portcullis_tests::{
    Host, LEAK, OPEN_FILES, Process, holds, inheritance, launch, launched, until,
};
use portcullis_wire::Body;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

const RULES: &str = r#"
[[launch]]
rule = "plain"
command = "plain"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
env = ["DEBUG={:one(0|1)}"]
[launch.container]
name = "plain"
user = "42435:42435"
capabilities = ["NET_ADMIN"]
environment = ["PROCESS_TAG=plain"]
mounts = [{ source = "{shared}", target = "/shared", mode = "rw" }]
pids = 64
"#;

#[test]
fn invariant_8_a_side_container_is_the_same_as_one_typed_by_hand() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let mut request = launch("plain", &[]);
    request.env = vec!["DEBUG=1".into()];
    let answer = launched(agent.client().launch(request));
    let ours = answer.process();
    let calls = host.engine().calls();
    let pid_file = host.path().join("by-hand.pid");
    let by_hand: Vec<String> = calls
        .run_of("plain")
        .arguments
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("--name", _)) => "--name=by-hand".into(),
            Some(("--pidfile", _)) => format!("--pidfile={}", pid_file.display()),
            // The staged one is gone; an operator names the source itself.
            Some(("--volume", value)) => {
                let (_, rest) = value.split_once(':').unwrap();
                format!("--volume={}:{rest}", host.shared().display())
            }
            _ => word.clone(),
        })
        .collect();
    // The same words, with the environment and the shell of an operator, and the limit that the launcher was given.
    let limited = format!("ulimit -Sn {OPEN_FILES}; exec /usr/bin/podman \"$@\"");
    let done = Command::new("/bin/sh")
        .args(["-c", &limited, "sh"])
        .args(&by_hand)
        .envs(host.engine().environment())
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let id = String::from_utf8(done.stdout).unwrap();
    let theirs = host.engine().container("by-hand").process();
    let (ours, theirs) = (
        inheritance(ours, &answer.container),
        inheritance(theirs, id.trim()),
    );
    assert!(
        ours["environment"].contains("PROCESS_TAG=plain"),
        "{ours:?}"
    );
    for (key, value) in &theirs {
        assert_eq!(
            ours.get(key),
            Some(value),
            "{key} differs from what an operator would get"
        );
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn invariant_8_the_payload_has_three_descriptors_and_the_rules_environment() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    // The launcher has what must not get through: a notify socket, an invocation, a listener, a policy.
    assert!(service.operator().is_served());
    let launcher = service.launcher().environment();
    for name in [
        "NOTIFY_SOCKET=",
        "INVOCATION_ID=",
        "LISTEN_FDS=",
        "LISTEN_PID=",
    ] {
        assert!(
            launcher.iter().any(|entry| entry.starts_with(name)),
            "{launcher:?}"
        );
    }
    let answer = launched(agent.client().launch(launch("plain", &[])));
    let process = answer.process();
    let numbers: Vec<_> = process.descriptors().into_keys().collect();
    assert_eq!(numbers, [0, 1, 2], "{:?}", process.descriptors());
    let mut names: Vec<String> = process
        .environment()
        .iter()
        .map(|entry| entry.split('=').next().unwrap().to_owned())
        .collect();
    names.sort();
    let podmans = ["HOME", "HOSTNAME", "PATH", "TERM", "container"];
    names.retain(|name| !podmans.contains(&name.as_str()));
    assert_eq!(names, ["PROCESS_TAG"], "{:?}", process.environment());
    assert_eq!(process.status()["Umask"], "0022");
}

#[test]
fn the_broker_has_none_of_the_launchers_descriptors_and_environment() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    assert!(service.client().is_served());
    let leaked = |p: Process| p.descriptors().values().any(|target| target == LEAK);
    assert!(
        leaked(service.launcher()),
        "the launcher was given one to leak"
    );
    assert!(
        !leaked(service.broker()),
        "{:?}",
        service.broker().descriptors()
    );
    assert_eq!(service.broker().environment(), Vec::<String>::new());
}

/// The soft and the hard limit of each resource.
fn limits(process: Process) -> BTreeMap<String, [String; 2]> {
    let text = fs::read_to_string(process.file("limits")).unwrap();
    let columns = |line: &str| {
        let (name, numbers) = line.split_at(26);
        let mut numbers = numbers.split_whitespace().map(ToOwned::to_owned);
        let limits = [numbers.next().unwrap(), numbers.next().unwrap()];
        (name.trim().to_owned(), limits)
    };
    text.lines().skip(1).map(columns).collect()
}

#[test]
fn podman_is_started_clean() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    host.engine().hang("run", "");
    let mut client = agent.client();
    client.send(Body::Launch(launch("plain", &[]))).unwrap();
    holds("podman is called", || {
        !host.engine().calls().runs().is_empty()
    });
    let script = host.engine().script().display().to_string();
    let children = service.launcher().children().into_iter();
    let podman = children
        .rev()
        .find(|child| child.arguments().contains(&script))
        .unwrap();
    let me = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();

    // Descriptors: 0 to 2, and the script that stands before podman here, once it waits.
    let descriptors = until("nothing but 0, 1, 2 and the script is open", || {
        let descriptors = podman.descriptors();
        let mut open = descriptors.iter();
        let is_so = open.all(|(number, target)| *number <= 2 || *target == script);
        is_so.then_some(descriptors)
    });
    for target in descriptors.values() {
        assert!(
            !target.starts_with("socket:") && !target.starts_with("pipe:"),
            "{target}"
        );
    }
    // The first is the name's lock, held while podman lives, even after the launcher's death.
    let state = agent.state().display().to_string();
    assert!(descriptors[&0].starts_with(&state), "{descriptors:?}");

    let environment = podman.environment();
    for entry in &environment {
        let name = entry.split('=').next().unwrap();
        let allowed = [
            "PATH",
            "HOME",
            "GOGC",
            "LANG",
            "LC_ALL",
            "TMPDIR",
            "CONTAINERS_CONF",
            "XDG_RUNTIME_DIR",
        ];
        assert!(allowed.contains(&name), "{entry}");
    }
    let (is, should) = (podman.status(), me.status());
    for key in [
        "CapBnd",
        "CapPrm",
        "CapEff",
        "NoNewPrivs",
        "Seccomp",
        "Groups",
        "Uid",
        "Gid",
    ] {
        assert_eq!(is[key], should[key], "{key}");
    }
    // Of signals, what the launcher was given; Rust programs ignore SIGPIPE for themselves alone.
    let mask = |status: &BTreeMap<String, String>, set: &str| {
        u64::from_str_radix(&status[set], 16).unwrap()
    };
    let pipe = 1 << 12;
    // The shell that the script runs in blocks all of them for a moment whenever it forks.
    holds("no signal is blocked", || {
        mask(&podman.status(), "SigBlk") == mask(&should, "SigBlk")
    });
    assert_eq!(mask(&is, "SigIgn"), mask(&should, "SigIgn") & !pipe);
    let (is, mut should) = (limits(podman), limits(me));
    // The launcher was given a soft limit below the hard one, raises it for itself, and puts it back.
    let files = "Max open files";
    let hard = should[files][1].clone();
    should.insert(files.into(), [OPEN_FILES.to_string(), hard.clone()]);
    assert_eq!(is, should);
    assert_eq!(
        limits(service.launcher())[files],
        [hard.clone(), hard],
        "raised, or there is nothing to put back"
    );
    let stat = fs::read_to_string(podman.file("stat")).unwrap();
    let session = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(3)
        .unwrap()
        .to_owned();
    assert_eq!(session, podman.pid.to_string(), "a session of its own");
    host.engine().release("run");
    let _ = launched(client.reply().reply);
}
