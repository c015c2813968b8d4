//! This build beside an older one, in pairs and in turns: `PORTCULLIS_BEFORE=DIR` names the folder with its binaries.
//!
//! All on one processor: on which one a process wakes makes more of a difference than the builds do.

use crate::launches::RULES;
use crate::report::Report;
use portcullis_tests::{Agent, Client, Host, Service, Stop, launch, launched};
use portcullis_wire::{Body, Reply};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// What a median may be, as a share of the one before.
const MOST: f64 = 1.05;
/// A user that the policy does not admit.
const OTHER: u32 = 12345;
/// Connections that flood at once.
const FLOODERS: usize = 4;
/// Pings in each round of a flood, of which the p99 counts.
const PINGS: usize = 500;

/// One of the two builds, with an agent whose answers are timed and one that floods.
struct Build<'h> {
    agent: Agent<'h>,
    service: Service,
    kept: Client,
    flooder: Agent<'h>,
    flooded: Service,
    /// Its containers have numbers from this one on.
    first: usize,
}

impl<'h> Build<'h> {
    fn start(host: &'h Host, name: &str, first: usize, folder: Option<&Path>) -> Self {
        let agent = |name: &str| {
            let agent = host.agent(name, RULES);
            open(&agent.socket(), 0o666);
            match folder {
                Some(folder) => agent.binaries(folder),
                None => agent,
            }
        };
        let (agent, flooder) = (agent(name), agent(&format!("{name}-floods")));
        let (service, flooded) = (agent.start(), flooder.start());
        let mut kept = service.client();
        assert!(kept.is_served() && flooded.client().is_served());
        Self {
            agent,
            service,
            kept,
            flooder,
            flooded,
            first,
        }
    }

    /// The p99 of its agent's pings, each on a connection of its own, while the other agent does that again and again.
    fn flooded(&self, flood: Flood) -> f64 {
        let socket = self.flooder.socket();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ended = Stop::at(&ended);
            for _ in 0..FLOODERS {
                scope.spawn(|| {
                    while !ended.load(Relaxed) {
                        flood(&socket);
                    }
                });
            }
            let ping = |_| micros(|| assert!(self.service.client().is_served()));
            let mut pings: Vec<f64> = (0..PINGS).map(ping).collect();
            pings.sort_by(f64::total_cmp);
            pings[PINGS * 99 / 100]
        })
    }
}

/// What an agent does as often as it can.
type Flood = fn(&Path);

const FLOODS: [(&str, Flood); 5] = [
    ("pings", |socket| on_one_connection(socket, || Body::Ping)),
    ("denials", |socket| on_one_connection(socket, denied)),
    ("noise", |socket| {
        if let Ok(client) = Client::connect(socket) {
            let _ = client.send_bytes(&[0xff; 1024]);
        }
    }),
    ("connections", |socket| drop(Client::connect(socket))),
    ("refused users", |socket| {
        if let Ok(mut client) = Client::connect_as(OTHER, socket) {
            let _ = client.send(Body::Ping);
            let _ = client.receive();
        }
    }),
];

/// The broker's limits may end the connection.
fn on_one_connection(socket: &Path, body: impl Fn() -> Body) {
    let Ok(mut client) = Client::connect(socket) else {
        return;
    };
    for _ in 0..100 {
        if client.send(body()).is_err() || !matches!(client.receive(), Ok(Some(_))) {
            return;
        }
    }
}

fn denied() -> Body {
    Body::Launch(launch("sleep", &["not-a-number"]))
}

fn open(path: &Path, mode: u32) {
    set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

fn micros(act: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    act();
    begin.elapsed().as_secs_f64() * 1e6
}

/// Measures, where there is something to compare with.
pub fn measure(report: &mut Report) {
    let Some(folder) = std::env::var_os("PORTCULLIS_BEFORE").map(PathBuf::from) else {
        eprintln!("bench: PORTCULLIS_BEFORE names no folder with older binaries");
        return;
    };
    let all = sched_getaffinity(None).expect("the processors");
    let one = (0..CpuSet::MAX_CPU).find(|at| all.is_set(*at));
    let mut alone = CpuSet::new();
    alone.set(one.expect("a processor"));
    sched_setaffinity(None, &alone).expect("one processor");
    compare_all(report, &folder);
    sched_setaffinity(None, &all).expect("the processors");
}

fn compare_all(report: &mut Report, folder: &Path) {
    let host = Host::new();
    open(host.path(), 0o755);
    let now = Build::start(&host, "now", 100_000, None);
    let before = Build::start(&host, "before", 200_000, Some(folder));
    let mut builds = [now, before];
    host.engine().note_no_more();
    let mut compare = |what: &str, rounds, time: &mut dyn FnMut(&mut Build, usize) -> f64| {
        compare(report, &mut builds, what, rounds, time);
    };
    compare("launch", 60, &mut |build, round| {
        let n = (build.first + round).to_string();
        micros(|| drop(launched(build.kept.launch(launch("sleep", &[&n])))))
    });
    for (what, body) in [("ping", Body::Ping), ("denial", denied())] {
        let what = format!("{what} on a");
        compare(&format!("{what} kept connection"), 5000, &mut |build, _| {
            micros(|| answered(build.kept.call(body.clone())))
        });
        compare(&format!("{what} new connection"), 2000, &mut |build, _| {
            micros(|| answered(build.service.client().call(body.clone())))
        });
    }
    compare("portcullis ping, start to exit", 500, &mut |build, _| {
        let mut ping = Command::new(build.agent.binary("portcullis"));
        ping.arg("--socket").arg(build.agent.socket()).arg("ping");
        ping.stdin(Stdio::null()).stdout(Stdio::null());
        micros(|| assert!(ping.status().expect("it starts").success()))
    });
    for (what, flood) in FLOODS {
        let what = format!("another agent's p99, flood of {what}");
        compare(&what, 30, &mut |build, _| build.flooded(flood));
    }
    for build in &builds {
        assert!(build.flooded.client().is_served());
    }
}

fn answered(reply: Reply) {
    assert!(matches!(reply, Reply::Pong(_) | Reply::Denied { .. }));
}

/// Has the two builds timed in turns, in microseconds, and adds the lines. The first round is not counted.
fn compare(
    report: &mut Report,
    builds: &mut [Build; 2],
    what: &str,
    rounds: usize,
    time: &mut dyn FnMut(&mut Build, usize) -> f64,
) {
    let mut times = [const { Vec::new() }; 2];
    for round in 0..=rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            let taken = time(&mut builds[at], round);
            if round > 0 {
                times[at].push(taken);
            }
        }
    }
    let [now, before] = times;
    let before = report.add(&format!("{what}: before"), "us", &before).median;
    let now = report.add(&format!("{what}: now"), "us", &now).median;
    let row = report.add(&format!("{what}: now / before"), "", &[now / before]);
    row.goal(&format!("at most {MOST}"), now / before <= MOST);
}
