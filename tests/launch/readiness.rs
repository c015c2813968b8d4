//! Readiness: `Launched` is said when the program's pid file is there and names a live process of the container.

use portcullis_tests::{Client, Host, Process, failed, holds, launch, launched, uuid};
use portcullis_wire::limits::OUTPUT;
use portcullis_wire::{Body, Launch, Reason, Reply};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The program is a script that waits for the file `go`, writes its pid and stays.
const SCRIPT: &str =
    "until [ -e /state/go ]; do sleep 0.01; done; echo $$ >/state/pid; sleep 1000; :";

fn rules() -> String {
    let rule = |name: &str, pid: &str, program: &str, timeout: &str| {
        format!(
            r#"
[[launch]]
rule = "{name}"
command = "{name}"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "{program}", "sh"]
args = [{{ min = 1, pattern = "{{id:uuid}}" }}]
[launch.container]
name = "{name}-{{id}}"
user = "0:0"
{pid}
mounts = [{{ source = "{{shared}}/{{id}}", target = "/state", mode = "rw" }}]
ready = {{ pid_file = "/state/pid", timeout = "{timeout}" }}
"#
        )
    };
    let host_pid = "pid = \"host\"";
    [
        rule("own", "", SCRIPT, "60s"),
        rule("host", host_pid, SCRIPT, "60s"),
        rule("impatient", "", SCRIPT, "1s"),
        rule("failing", "", "echo cannot bind >&2; exit 3", "60s"),
        rule(
            "loud",
            "",
            "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; exit 4",
            "60s",
        ),
        rule("zero", "", "exit 0", "60s"),
    ]
    .concat()
}

struct State {
    id: String,
    path: PathBuf,
}

impl State {
    fn new(host: &Host) -> Self {
        let id = uuid();
        let path = host.shared().join(&id);
        fs::create_dir(&path).unwrap();
        Self { id, path }
    }

    fn request(&self, command: &str) -> Launch {
        launch(command, &[&self.id])
    }

    fn go(&self) {
        fs::write(self.path.join("go"), "").unwrap();
    }
}

/// Sends the launch and waits until its container runs.
fn begin(host: &Host, client: &mut Client, state: &State, command: &str) -> u64 {
    let id = client.send(Body::Launch(state.request(command))).unwrap();
    let name = format!("{command}-{}", state.id);
    holds("it runs", || {
        host.engine()
            .find(&name)
            .is_some_and(|c| c.state == "running")
    });
    id
}

/// Whether the launch is still not answered: a ping sent now is answered first, again and again for a while.
#[track_caller]
fn unanswered(client: &mut Client) {
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        assert!(client.is_served());
    }
}

fn waits_for_the_pid_file(command: &str) {
    let host = Host::new();
    let agent = host.agent("blue", &rules());
    let service = agent.start();
    let state = State::new(&host);
    let mut client = service.client();
    let id = begin(&host, &mut client, &state, command);
    unanswered(&mut client);
    state.go();
    let response = client.reply();
    assert_eq!(response.id, id);
    let answer = launched(response.reply);
    let pid = fs::read_to_string(state.path.join("pid")).unwrap();
    let expected = if command == "host" { answer.pid } else { 1 };
    assert_eq!(pid.trim(), expected.to_string());
    assert!(Process::find(answer.pid).is_some());
}

#[test]
fn invariant_6_launched_is_said_when_the_pid_file_is_there() {
    waits_for_the_pid_file("own");
}

#[test]
fn invariant_6_launched_is_said_when_the_pid_file_is_there_in_the_hosts_pid_namespace_too() {
    waits_for_the_pid_file("host");
}

#[test]
fn a_stale_pid_file_that_names_somebody_else_is_not_readiness() {
    for (command, stale) in [
        ("host", std::process::id().to_string()),
        ("host", "1".into()),
        // No number of its namespace's, which begins at 1 and gets one for each turn of the script.
        ("own", "30000".into()),
    ] {
        let host = Host::new();
        let agent = host.agent("blue", &rules());
        let service = agent.start();
        let state = State::new(&host);
        fs::write(state.path.join("pid"), &stale).unwrap();
        let mut client = service.client();
        begin(&host, &mut client, &state, command);
        unanswered(&mut client);
        state.go();
        let _ = launched(client.reply().reply);
        assert_ne!(
            fs::read_to_string(state.path.join("pid")).unwrap().trim(),
            stale
        );
    }
}

#[test]
fn a_pid_file_that_is_a_link_or_is_no_number_is_not_readiness() {
    for content in [
        "",
        "1 1",
        "-1",
        "0x1",
        "1\n1\n",
        "99999999999999999999",
        "0",
        "\u{661}",
        "link",
        "fifo",
    ] {
        let host = Host::new();
        let agent = host.agent("blue", &rules());
        let service = agent.start();
        let state = State::new(&host);
        let path = state.path.join("pid");
        match content {
            "link" => {
                fs::write(state.path.join("real"), "1\n").unwrap();
                symlink("real", path).unwrap();
            }
            "fifo" => {
                assert!(
                    std::process::Command::new("mkfifo")
                        .arg(path)
                        .status()
                        .unwrap()
                        .success()
                );
            }
            _ => fs::write(path, content).unwrap(),
        }
        let failure = failed(service.client().launch(state.request("impatient")));
        assert_eq!(failure.reason, Reason::Timeout, "{content:?}");
    }
}

#[test]
fn a_program_that_ends_before_it_is_ready_is_told_with_code_and_output_at_once() {
    let host = Host::new();
    let agent = host.agent("blue", &rules());
    let service = agent.start();
    let begin = Instant::now();
    let failure = failed(
        service
            .client()
            .launch(State::new(&host).request("failing")),
    );
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "not after the rule's timeout"
    );
    assert_eq!((failure.reason, failure.exit), (Reason::Exited, Some(3)));
    assert!(failure.output.contains("cannot bind"), "{failure:?}");
    let failure = failed(service.client().launch(State::new(&host).request("zero")));
    assert_eq!((failure.reason, failure.exit), (Reason::Exited, Some(0)));
    let failure = failed(service.client().launch(State::new(&host).request("loud")));
    assert_eq!((failure.reason, failure.exit), (Reason::Exited, Some(4)));
    assert!(failure.output.len() <= OUTPUT, "{}", failure.output.len());
    assert!(
        failure.output.trim_end().ends_with("line 499"),
        "the last of it: {failure:?}"
    );
    holds("nothing is left of them", || {
        host.engine().containers().is_empty()
    });
}

#[test]
fn a_program_that_is_not_ready_in_time_is_a_timeout() {
    let host = Host::new();
    let agent = host.agent("blue", &rules());
    let service = agent.start();
    let begin = Instant::now();
    let failure = failed(
        service
            .client()
            .launch(State::new(&host).request("impatient")),
    );
    assert_eq!(failure.reason, Reason::Timeout);
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[test]
fn waiting_for_readiness_holds_no_worker() {
    let host = Host::new();
    let agent = host.agent("blue", &rules()).engine("workers = 1");
    let service = agent.start();
    let states: Vec<_> = (0..6).map(|_| State::new(&host)).collect();
    let mut clients: Vec<_> = states.iter().map(|_| service.client()).collect();
    for (client, state) in clients.iter_mut().zip(&states) {
        client.send(Body::Launch(state.request("own"))).unwrap();
    }
    holds("all of them run", || {
        host.engine()
            .containers()
            .iter()
            .filter(|c| c.state == "running")
            .count()
            == 6
    });
    for (client, state) in clients.iter_mut().zip(&states).rev() {
        unanswered(client);
        state.go();
        let _ = launched(client.reply().reply);
    }
}

#[test]
fn a_repeat_while_the_first_is_not_ready_joins_it() {
    let host = Host::new();
    let agent = host.agent("blue", &rules());
    let service = agent.start();
    let state = State::new(&host);
    let (mut first, mut second) = (service.client(), service.client());
    begin(&host, &mut first, &state, "own");
    second.send(Body::Launch(state.request("own"))).unwrap();
    unanswered(&mut second);
    state.go();
    let (first, second) = (
        launched(first.reply().reply),
        launched(second.reply().reply),
    );
    assert_eq!(first.container, second.container);
    assert_eq!(host.engine().calls().runs().len(), 1);
}

#[test]
fn one_that_runs_and_is_ready_no_more_is_not_reused() {
    // Neutron deletes the pid file before each start: what answers then must have written it anew.
    let host = Host::new();
    let agent = host.agent("blue", &rules());
    let service = agent.start();
    let state = State::new(&host);
    state.go();
    let first = launched(service.client().launch(state.request("own")));
    let again = launched(service.client().launch(state.request("own")));
    assert!(again.reused && again.container == first.container);
    fs::remove_file(state.path.join("pid")).unwrap();
    match service.client().launch(state.request("own")) {
        Reply::Launched {
            container, reused, ..
        } => {
            assert!(!reused && container != first.container);
            assert!(state.path.join("pid").exists());
        }
        other => assert_ne!(failed(other).reason, Reason::Internal),
    }
}
