//! Resident memory of both halves, idle and after many requests.

use crate::launches::RULES;
use crate::report::Report;
use portcullis_tests::{Host, Process, launch};
use portcullis_wire::Body;

const REQUESTS: usize = 10_000;
const MOST: f64 = 4.0;

fn resident(process: Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("status");
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    let kib: f64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number");
    kib / 1024.0
}

/// Measures.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let agent = host.agent("bench", RULES);
    let service = agent.start();
    let mut client = service.client();
    assert!(client.is_served());
    let halves = [
        ("broker", service.broker()),
        ("launcher", service.launcher()),
    ];
    let idle = halves.map(|(_, process)| resident(process));
    // Half of them denied by the broker, half handed on and joined or reused by the launcher.
    for n in 0..REQUESTS {
        let word = if n % 2 == 0 { "7" } else { "seven" };
        let _ = client.call(Body::Launch(launch("sleep", &[word])));
    }
    for ((name, process), idle) in halves.into_iter().zip(idle) {
        let after = resident(process);
        let row = report.add(&format!("{name}: resident, idle"), "MiB", &[idle]);
        row.goal("under 4 MiB", idle < MOST);
        let row = report.add(
            &format!("{name}: resident, after {REQUESTS} requests"),
            "MiB",
            &[after],
        );
        row.goal(
            "under 4 MiB, no growth (0.25 MiB)",
            after < MOST && after - idle < 0.25,
        );
    }
}
