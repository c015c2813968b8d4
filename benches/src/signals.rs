//! From a client's start to the running container: over the socket and through a spool, with a launcher that runs already.

use crate::marks::{COMMAND, Marks, rules};
use crate::report::Report;
use portcullis_tests::{Agent, Host, Service, binary, holds};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const RUNS: usize = 40;
/// How many milliseconds a spool may be later.
const MOST: f64 = 50.0;

/// Measures.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let (marks_dir, spool) = (host.path().join("marks"), host.path().join("spool"));
    std::fs::create_dir(&spool).expect("a directory");
    let mut marks = Marks::new(&marks_dir);
    let rules = rules(
        &marks_dir.display().to_string(),
        &spool.display().to_string(),
    );
    let agent = host.agent("bench", &rules);
    let service = agent.start();
    assert!(service.client().is_served());
    host.engine().note_no_more();
    compare(report, "signal", RUNS, |way, n| {
        let client = match way {
            Way::Socket => by_socket(&agent),
            Way::Spool => by_spool(&spool),
        };
        time(client, n, &mut marks, &service)
    });
}

/// How the host is told of a launch.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// By a datagram.
    Socket,
    /// By a line and a timestamp.
    Spool,
}

/// Has so many launches timed of either way, in turns, each with a number of its own, and adds the lines.
pub fn compare(
    report: &mut Report,
    what: &str,
    runs: usize,
    mut time: impl FnMut(Way, usize) -> f64,
) {
    let (mut sockets, mut spools) = (vec![], vec![]);
    // The first ones are slower, whichever way, and not counted.
    for round in 0..=runs {
        let (mut socket, mut spool) = (0.0, 0.0);
        let mut ways = [(Way::Socket, &mut socket), (Way::Spool, &mut spool)];
        if round % 2 == 1 {
            ways.reverse();
        }
        for (at, (way, taken)) in ways.into_iter().enumerate() {
            *taken = time(way, 2 * round + at);
        }
        if round > 0 {
            sockets.push(socket);
            spools.push(spool);
        }
    }
    let later: Vec<f64> = spools.iter().zip(&sockets).map(|(f, s)| f - s).collect();
    report.add(
        &format!("{what}: by the socket, until it runs"),
        "ms",
        &sockets,
    );
    report.add(&format!("{what}: by a spool, until it runs"), "ms", &spools);
    let row = report.add(
        &format!("{what}: how much later by the spool, in each round"),
        "ms",
        &later,
    );
    let met = row.median <= MOST;
    row.goal(&format!("at most {MOST} ms"), met);
}

fn by_socket(agent: &Agent<'_>) -> Command {
    let mut command = Command::new(binary("portcullis"));
    command.arg("--socket").arg(agent.socket()).arg("run");
    command
}

fn by_spool(dir: &Path) -> Command {
    let mut command = Command::new(binary("portcullis"));
    command
        .args(["run", "--transport=spool", "--spool"])
        .arg(dir);
    command
}

/// How long it takes, in milliseconds. The next one begins when all is over: a client of a spool does not wait for it.
fn time(mut client: Command, n: usize, marks: &mut Marks, service: &Service) -> f64 {
    client
        .args([COMMAND, &n.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let begin = Instant::now();
    let mut client = client.spawn().expect("portcullis");
    let runs = marks.wait([n]) - begin;
    assert!(client.wait().expect("its status").success());
    holds("the launch is over", || {
        let audit = service.audit();
        let records = audit.with("name", &format!("bench-{n}"));
        records.iter().any(|r| r["verdict"] == "launched")
    });
    runs.as_secs_f64() * 1e3
}
