//! The client, from its start to its exit.

use crate::launches::RULES;
use crate::report::Report;
use portcullis_tests::{Host, binary};
use std::process::{Command, Stdio};
use std::time::Instant;

const RUNS: usize = 500;

/// Measures.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let agent = host.agent("bench", RULES);
    let service = agent.start();
    assert!(service.client().is_served());
    let run = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let begin = Instant::now();
        assert!(command.status().expect("it starts").success());
        begin.elapsed().as_secs_f64() * 1e3
    };
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..RUNS {
        theirs.push(run(&mut Command::new("/bin/true")));
        let mut ping = Command::new(binary("portcullis"));
        ours.push(run(ping.arg("--socket").arg(agent.socket()).arg("ping")));
    }
    report.add("client: /bin/true, start to exit", "ms", &theirs);
    let row = report.add("client: portcullis ping, start to exit", "ms", &ours);
    let met = row.median < 1.0;
    row.goal("under 1 ms", met);
}
