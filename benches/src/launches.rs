//! A launch through client, broker and launcher against the same podman command typed by hand.

use crate::report::Report;
use portcullis_tests::{Host, binary, launch, launched};
use std::process::{Command, Stdio};
use std::time::Instant;

const RUNS: usize = 40;

/// The policy that all benches use.
pub const RULES: &str = r#"
[limits]
running = 100000
launches = "1000000/s"
in_flight = 1000

[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{n:int}" }]
[launch.container]
name = "bench-{n}"
user = "65534:65534"
"#;

/// Measures.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let agent = host.agent("bench", RULES);
    let service = agent.start();
    let mut client = service.client();
    let mut ask = |n: usize| {
        let begin = Instant::now();
        let got = launched(client.launch(launch("sleep", &[&n.to_string()])));
        (begin.elapsed().as_secs_f64() * 1e3, got.name)
    };
    let (_, first) = ask(100_000);
    let typed = host.engine().calls().run_of(&first).clone();
    host.engine().note_no_more();
    let by_hand = |n: usize| {
        let name = format!("hand-{n}");
        let mut command = Command::new(host.engine().script());
        for word in &typed.arguments {
            match word.split_once('=') {
                Some(("--name", _)) => command.arg(format!("--name={name}")),
                Some(("--pidfile", _)) => {
                    command.arg(format!("--pidfile={}/{name}.pid", host.path().display()))
                }
                _ => command.arg(word),
            };
        }
        command.env_clear().envs(host.engine().environment());
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let begin = Instant::now();
        assert!(command.status().expect("podman").success());
        begin.elapsed().as_secs_f64() * 1e3
    };
    let by_program = |n: usize| {
        let mut command = Command::new(binary("portcullis"));
        command.arg("--socket").arg(agent.socket());
        command.args(["run", "sleep", &n.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let begin = Instant::now();
        assert!(command.status().expect("portcullis").success());
        begin.elapsed().as_secs_f64() * 1e3
    };
    let (mut ours, mut programs, mut theirs) = (vec![], vec![], vec![]);
    let mut asked = vec![];
    for n in 1..=RUNS {
        let (time, name) = ask(100_000 + n);
        ours.push(time);
        asked.push(name);
        programs.push(by_program(200_000 + n));
        theirs.push(by_hand(n));
    }
    let audit = service.audit();
    let records: Vec<_> = audit
        .records()
        .into_iter()
        .filter(|r| r["verdict"] == "launched" && asked.iter().any(|name| r["name"] == **name))
        .collect();
    assert_eq!(records.len(), RUNS);
    let phase = |name: &str| -> Vec<f64> {
        records
            .iter()
            .map(|r| r[name].as_f64().unwrap_or(0.0) / 1e3)
            .collect()
    };
    let total = phase("total_us");
    let podman = phase("podman_us");
    let added: Vec<f64> = total.iter().zip(&podman).map(|(t, p)| t - p).collect();
    report.add("launch: podman run typed by hand", "ms", &theirs);
    report.add("launch: asked by a client, until the answer", "ms", &ours);
    report.add("launch: portcullis run, start to exit", "ms", &programs);
    report.add("launch: podman's part of it", "ms", &podman);
    for name in ["decided_us", "prepared_us", "ready_us", "answered_us"] {
        let what = format!("launch: phase {}", name.trim_end_matches("_us"));
        report.add(&what, "ms", &phase(name));
    }
    let row = report.add(
        "launch: what Portcullis adds (total less podman)",
        "ms",
        &added,
    );
    let met = row.median <= 3.0 && row.p95 <= 5.0;
    row.goal("at most 3 ms, p95 5 ms", met);
}
