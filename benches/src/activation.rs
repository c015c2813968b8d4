//! From a client's start to the running container where nothing runs yet: systemd starts the service, by the socket or by
//! the path unit. In a booted machine with the package installed.

use crate::marks::{COMMAND, Marks, rules};
use crate::report::Report;
use crate::signals::{Way, compare};
use portcullis_tests::{Machine, holds};
use std::process::Stdio;
use std::time::Instant;

const RUNS: usize = 20;
const MARKS: &str = "/srv/marks";
const SPOOL: &str = "/srv/spool";
const SOCKET: &str = "/run/portcullis/bench/broker.sock";
const SERVICE: &str = "portcullis@bench.service";
const PATH: &str = "portcullis-spool@bench.path";

/// Measures.
pub fn measure(report: &mut Report) {
    let machine = Machine::with_package();
    let mut marks = Marks::new(&machine.path(MARKS));
    let policy = format!("version = 1\n[peer]\nuid = [0]\n{}", rules(MARKS, SPOOL));
    machine.write("/etc/portcullis/agents/bench.toml", &policy);
    machine.must(&format!(
        "mkdir {SPOOL} && d=/etc/systemd/system/{PATH}.d && mkdir $d && \
         portcullis-policy path-unit /etc/portcullis/agents/bench.toml >$d/spools.conf && \
         systemctl daemon-reload && systemctl enable --now portcullis@bench.socket {PATH} 2>&1"
    ));
    compare(report, "activation", RUNS, |way, n| {
        time(&machine, way, n, &mut marks)
    });
}

/// How long it takes, in milliseconds, from no service to one with one container, which is then removed.
fn time(machine: &Machine, way: Way, n: usize, marks: &mut Marks) -> f64 {
    machine.must(&format!("systemctl stop {SERVICE}"));
    holds("the path unit watches", || {
        machine.property(PATH, "SubState") == "waiting"
    });
    assert_eq!(machine.property(SERVICE, "ActiveState"), "inactive");
    let mut client = machine.command("portcullis");
    match way {
        Way::Socket => client.args(["--socket", SOCKET, "run"]),
        Way::Spool => client.args(["run", "--transport=spool", "--spool", SPOOL]),
    };
    client.args([COMMAND, &n.to_string()]);
    client.stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut client = client.spawn().expect("portcullis");
    let runs = marks.wait([n]) - begin;
    assert!(client.wait().expect("its status").success());
    // It says so for what runs; a launch may not have come so far yet.
    let stop = format!("portcullis --agent bench stop --timeout 0 bench-{n}");
    holds("the container is removed", || {
        machine.shell(&stop).status.success()
    });
    runs.as_secs_f64() * 1e3
}
