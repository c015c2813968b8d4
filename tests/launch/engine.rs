//! A podman that hangs, lies or fails.

use portcullis_tests::{Host, Process, SLEEP, Service, failed, holds, launch, launched, until};
use portcullis_wire::{Body, Reason, Reply, State, limits};
use rustix::process::Signal;
use std::fs;
use std::time::{Duration, Instant};

fn state(service: &Service, name: &str) -> Option<State> {
    let mut items = service.list(true).into_iter();
    Some(items.find(|item| item.name == name)?.state)
}

/// The podman that hangs for that container.
fn hanging(service: &Service, name: &str) -> Process {
    let word = format!("--name={name}");
    until("podman is called", || {
        let children = service.launcher().children();
        children
            .into_iter()
            .find(|child| child.arguments().contains(&word))
    })
}

#[test]
fn a_podman_that_hangs_is_a_timeout_and_is_not_killed_and_its_container_is_found_later() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP).engine("deadline = \"6s\"");
    let service = agent.start();
    host.engine().hang("run", "--name=sleep-1000");
    let mut client = service.client();
    let failure = failed(client.launch(launch("sleep", &["1000"])));
    assert_eq!(failure.reason, Reason::Timeout);
    let podman = hanging(&service, "sleep-1000");
    assert_eq!(state(&service, "sleep-1000"), Some(State::Unknown));
    // A repeat is not run beside it, and gets an answer.
    match client.launch(launch("sleep", &["1000"])) {
        Reply::Busy { .. } => {}
        reply => assert_eq!(failed(reply).reason, Reason::Timeout),
    }
    // Others are served meanwhile.
    let _ = launched(client.launch(launch("sleep", &["2000"])));
    assert!(podman.is_alive(), "never killed on a deadline");
    host.engine().release("run");
    holds("the truth is found out", || {
        state(&service, "sleep-1000") == Some(State::Running)
    });
    let answer = launched(client.launch_patiently(&launch("sleep", &["1000"])));
    assert!(answer.reused);
    assert_eq!(host.engine().container("sleep-1000").id, answer.container);
    assert_eq!(host.engine().calls().runs_of("sleep-1000").len(), 1);
}

#[test]
fn podmans_that_hang_hold_no_worker_for_ever_and_end_in_a_clear_error() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let agent = agent.engine("deadline = \"4s\"").engine("workers = 1");
    let service = agent.start();
    let mut client = service.client();
    let _ = launched(client.launch(launch("sleep", &["5000"])));
    host.engine().hang("run", "--name=sleep-1");
    // A slot is replaced after the deadline, eight times at most.
    let mut reasons = vec![];
    for seconds in 1000..1012 {
        let request = launch("sleep", &[&seconds.to_string()]);
        match client.launch(request) {
            Reply::Busy { .. } => reasons.push(None),
            reply => reasons.push(Some(failed(reply).reason)),
        }
        if reasons.len() == 3 {
            let _ = launched(client.launch(launch("sleep", &["2000"])));
        }
    }
    assert_eq!(reasons[0], Some(Reason::Timeout), "{reasons:?}");
    assert!(reasons.contains(&Some(Reason::Engine)), "{reasons:?}");
    assert!(host.engine().calls().runs().len() <= 12);
    host.engine().release("run");
    holds("it serves again", || {
        matches!(
            client.launch(launch("sleep", &["3000"])),
            Reply::Launched { .. }
        )
    });
    holds("all that was begun runs", || {
        let runs = host.engine().calls().runs().len();
        let containers = host.engine().containers();
        containers.len() == runs && containers.iter().all(|c| c.state == "running")
    });
}

#[test]
fn rc_0_without_a_container_is_not_launched() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    assert!(service.client().is_served());
    host.engine().lie("run");
    let failure = failed(service.client().launch(launch("sleep", &["1000"])));
    assert_eq!(failure.reason, Reason::Engine);
    assert!(host.engine().containers().is_empty());
}

#[test]
fn a_podman_that_is_killed_is_an_error_and_leaves_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    host.engine().hang("run", "");
    let mut client = service.client();
    for signal in [Signal::TERM, Signal::KILL] {
        client
            .send(Body::Launch(launch("sleep", &["1000"])))
            .unwrap();
        hanging(&service, "sleep-1000").signal(signal);
        assert_eq!(failed(client.reply().reply).reason, Reason::Engine);
    }
    host.engine().release("run");
    let answer = launched(client.launch_patiently(&launch("sleep", &["1000"])));
    assert!(!answer.reused);
    holds("it alone is there", || {
        host.engine().containers().len() == 1
    });
}

#[test]
fn a_podman_that_is_not_there_is_a_clear_error() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    assert!(service.client().is_served());
    let _ = launched(service.client().launch(launch("sleep", &["1000"])));
    let script = host.engine().script();
    fs::rename(&script, script.with_extension("away")).unwrap();
    let failure = failed(service.client().launch(launch("sleep", &["2000"])));
    assert_eq!(failure.reason, Reason::Engine);
    fs::rename(script.with_extension("away"), &script).unwrap();
    let _ = launched(
        service
            .client()
            .launch_patiently(&launch("sleep", &["2000"])),
    );
}

/// How many podmans the launcher has started that have not ended, and how many that have and were not waited for.
fn podmans(service: &Service) -> (usize, usize) {
    let launcher = service.launcher();
    let of_launcher = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, fields) = text.rsplit_once(") ")?;
        let (state, rest) = fields.split_once(' ')?;
        let parent = rest.split(' ').next()?;
        (parent == launcher.pid.to_string()).then(|| state == "Z")
    };
    let all: Vec<bool> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(of_launcher)
        .collect();
    let ended = all.iter().filter(|ended| **ended).count();
    // The broker is one of its children.
    (all.len() - ended - 1, ended)
}

/// More side containers end than podmans may hang, and each of those hangs as it looks, or removes.
#[track_caller]
fn hung_podmans_are_few_and_are_reaped(subcommand: &str) {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let agent = agent.engine("deadline = \"5s\"").engine("workers = 4");
    let service = agent.start();
    let mut client = service.client();
    let mains: Vec<_> = (1000..1012)
        .map(|seconds| {
            let request = launch("sleep", &[&seconds.to_string()]);
            let main = launched(client.launch_patiently(&request)).pid;
            Process::find(main).unwrap()
        })
        .collect();
    host.engine().hang(subcommand, "");
    for main in mains {
        main.signal(Signal::KILL);
    }
    let mut most = 0;
    holds("more were wanted, again and again, and refused", || {
        most = most.max(podmans(&service).0);
        assert!(most < 12, "{most} at once");
        let log = service.audit();
        let lines = log.lines().iter().map(ToString::to_string);
        lines.filter(|line| line.contains("podmans hang")).count() > 50
    });
    assert!(most >= 8, "{most} at once");
    // A launch needs podman too, and is told at once.
    let asked = Instant::now();
    let failure = failed(client.launch_patiently(&launch("sleep", &["5000"])));
    assert_eq!(failure.reason, Reason::Engine);
    assert!(asked.elapsed() < Duration::from_secs(5));
    host.engine().release(subcommand);
    holds("all is cleared away", || {
        host.engine().containers().is_empty()
    });
    holds("it serves again, and none is left", || {
        let reply = client.launch_patiently(&launch("sleep", &["5000"]));
        matches!(reply, Reply::Launched { .. }) && podmans(&service) == (0, 0)
    });
}

#[test]
fn podmans_that_hang_as_they_look_are_few_and_are_reaped() {
    hung_podmans_are_few_and_are_reaped("container");
}

#[test]
fn podmans_that_hang_as_they_remove_are_few_and_are_reaped() {
    hung_podmans_are_few_and_are_reaped("rm");
}

#[test]
fn the_end_of_a_long_output_is_told_and_never_lies_in_the_runtime_directory() {
    let host = Host::new();
    // One MiB without a newline; and whether it has ended is seen before or after podman has returned.
    let rules = SLEEP
        .replace(
            "program = [\"/bin/sleep\"]",
            "program = [\"/bin/sh\", \"-c\", \"head -c 1048576 /dev/zero | tr '\\\\0' x; printf END; exit 3\", \"sh\"]",
        )
        .replace(
            "user = \"0:0\"",
            "user = \"0:0\"\nready = { pid_file = \"/run/pid\", timeout = \"30s\" }",
        );
    let agent = host.agent("blue", &rules);
    // There is no room for more: what is larger could not be written there.
    let scratch = agent.private().join("podman");
    fs::create_dir_all(&scratch).unwrap();
    let size = c"size=256k";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &scratch, "tmpfs", flags, size).unwrap();
    let service = agent.start();
    let failure = failed(service.client().launch(launch("sleep", &["1"])));
    assert_eq!((failure.reason, failure.exit), (Reason::Exited, Some(3)));
    let told = failure.output;
    assert!(told.ends_with("xxxEND"), "{told:?}");
    assert!(told.len() <= limits::OUTPUT, "{}", told.len());
}
