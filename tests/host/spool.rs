//! An agent that has no socket: its lines, the path unit that starts the service for them, and what befalls both.
//!
//! `PORTCULLIS_ROUNDS` says how often each is tried, `PORTCULLIS_LINES` how many lines each of 16 writers writes.

use crate::agent::{Agent, UID, policy};
use portcullis_tests::{
    IMAGE, Machine, Process, Stop, holds, longest_wait, storm_lines, storm_patience,
};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

const WRITERS: usize = 16;

/// Each says in a file of its own that it was started, and lives for longer than a launcher takes to come back.
const RULES: &str = r#"
[limits]
launches = "10000/s"
running = 2000
in_flight = 512

[[launch]]
rule = "side"
command = "side"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "echo started >>/starts/$1; exec sleep 60", "side"]
args = [{ min = 1, pattern = "{token:word}" }]
[launch.container]
name = "side-{token}"
user = "42435:42435"
mounts = [{ source = "{dir}/starts", target = "/starts", mode = "rw" }]
pids = 0

[[spool]]
command = "side"
dir = "/srv/demo/side"
"#;

/// What an operator does: policy, drop-in, path unit; and an agent's container with the spool in it, and no socket.
#[track_caller]
fn set_up(machine: &Machine) -> Agent<'_> {
    let agent = Agent {
        machine,
        name: "demo".into(),
    };
    machine.must(&format!(
        "install -d -o {UID} -g {UID} /srv/demo /srv/demo/side /srv/demo/starts && mkdir -p /run/netns"
    ));
    let wrapper = concat!(env!("CARGO_MANIFEST_DIR"), "/spool/field/wrapper.sh");
    machine.give(wrapper.as_ref(), "/usr/local/bin/wrapper");
    agent.write_policy(&policy("demo", RULES));
    machine.must(
        "d=/etc/systemd/system/portcullis-spool@demo.path.d && mkdir -p $d && \
         portcullis-policy path-unit /etc/portcullis/agents/demo.toml >$d/spools.conf && \
         systemctl daemon-reload && systemctl enable --now portcullis-spool@demo.path 2>&1",
    );
    machine.must(&format!(
        "podman run --detach --name=agent-demo --network=none --user={UID}:{UID} --cap-drop=all \
         --security-opt=no-new-privileges --read-only --volume=/run/netns:/run/netns:ro,rslave \
         --volume=/usr:/usr:ro --volume=/srv/demo/side:/var/lib/portcullis/spool/side \
         {IMAGE} /usr/bin/sleep infinity"
    ));
    agent
}

/// How often each token was started.
fn starts(machine: &Machine) -> BTreeMap<String, usize> {
    let files = fs::read_dir(machine.path("/srv/demo/starts")).unwrap();
    files
        .flatten()
        .map(|file| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let token = file.file_name().to_string_lossy().into_owned();
            (token, text.lines().count())
        })
        .collect()
}

#[track_caller]
fn is_started(machine: &Machine, token: &str) {
    holds(&format!("{token} is started"), || {
        starts(machine).get(token) >= Some(&1)
    });
}

/// The path unit watches, or has started the service; it has not failed.
#[track_caller]
fn is_watching(machine: &Machine) {
    let property = |name| machine.property("portcullis-spool@demo.path", name);
    assert_eq!(property("ActiveState"), "active", "{}", property("Result"));
    assert_eq!(property("Result"), "success");
}

/// Lines and journal are empty.
fn is_done(machine: &Machine) -> bool {
    let length = |path: &str| fs::metadata(machine.path(path)).map_or(0, |m| m.len());
    let journal = fs::read_dir(machine.path("/var/lib/portcullis/demo/spool"));
    let journal = journal.into_iter().flatten().flatten();
    length("/srv/demo/side/processes") == 0
        && journal
            // One that has another name by now is still there.
            .map(|file| file.metadata().map_or(1, |m| m.len()))
            .sum::<u64>()
            == 0
}

/// The launcher that systemd has started, if it has.
fn launcher(agent: &Agent) -> Option<Process> {
    let number = agent.machine.property(&agent.service_unit(), "MainPID");
    let number: i32 = number.parse().unwrap();
    agent.machine.processes().get(&number).copied()
}

fn rounds() -> usize {
    let text = std::env::var("PORTCULLIS_ROUNDS");
    text.map_or(5, |text| text.parse().expect("a number"))
}

#[test]
fn lines_of_an_agent_without_a_socket_start_the_service_after_every_stop() {
    let machine = Machine::with_package();
    let agent = set_up(&machine);
    for round in 0..rounds() {
        machine.must("systemctl stop portcullis@demo.service");
        assert!(!agent.is_serving());
        is_watching(&machine);
        // Our client falls back by itself; the field's wrapper knows nothing else.
        let (ours, fields) = (format!("ours-{round}"), format!("fields-{round}"));
        let said = agent.must(&format!("portcullis run side {ours} 2>&1"));
        assert!(said.contains("/var/lib/portcullis/spool/side"), "{said}");
        is_started(&machine, &ours);
        assert!(agent.is_serving());
        agent.must(&format!(
            "cd /var/lib/portcullis/spool/side && SPOOL=. LOCK=lock wrapper {fields}"
        ));
        is_started(&machine, &fields);
        holds("all is done", || is_done(&machine));
        is_watching(&machine);
    }
    assert!(starts(&machine).values().all(|count| *count == 1));
}

/// What is written while nobody is there to watch, not even the path unit.
#[test]
fn lines_that_were_written_before_the_path_unit_watched_are_launched_with_its_start() {
    let machine = Machine::with_package();
    let agent = set_up(&machine);
    machine.must("systemctl stop portcullis-spool@demo.path portcullis@demo.service");
    agent.must("portcullis run --transport spool side early 2>&1");
    assert!(!agent.is_serving());
    machine.must("systemctl start portcullis-spool@demo.path");
    is_started(&machine, "early");
    is_watching(&machine);
}

#[test]
fn lines_are_launched_through_every_death_of_the_launcher() {
    let machine = Machine::with_package();
    let agent = set_up(&machine);
    for round in 0..rounds() {
        let launcher = {
            let mut found = None;
            holds("a launcher", || {
                found = launcher(&agent);
                found.is_some()
            });
            found.unwrap()
        };
        let write = |token: String| agent.must(&format!("portcullis run side {token} 2>&1"));
        write(format!("before-{round}"));
        launcher.signal(Signal::KILL);
        holds("it is gone", || !launcher.is_alive());
        write(format!("after-{round}"));
        is_started(&machine, &format!("before-{round}"));
        is_started(&machine, &format!("after-{round}"));
        is_watching(&machine);
    }
    holds("all is done", || is_done(&machine));
    assert!(starts(&machine).values().all(|count| *count == 1));
}

/// systemd gives up on a path unit that triggers 200 times in 2 s.
#[test]
fn bursts_of_200_triggers_leave_the_path_unit_watching_and_lose_no_line() {
    const LINES: usize = 10;
    let machine = Machine::with_package();
    let agent = set_up(&machine);
    let mut wanted = vec![];
    for state in ["running", "stopped"] {
        if state == "stopped" {
            machine.must("systemctl stop portcullis@demo.service");
        }
        let mut quickest = Duration::MAX;
        for n in 1..=LINES {
            let begin = Instant::now();
            agent.must(&format!(
                "cd /var/lib/portcullis/spool/side && portcullis run side {state}-{n} 2>/dev/null &&
                 for t in $(seq 200); do echo now >processes-timestamp; done"
            ));
            quickest = quickest.min(begin.elapsed());
        }
        assert!(quickest < Duration::from_secs(2), "200 in 2 s");
        wanted.extend((1..=LINES).map(|n| format!("{state}-{n}")));
        for token in &wanted {
            is_started(&machine, token);
        }
        is_watching(&machine);
    }
    // And afterwards it still does what it is for.
    machine.must("systemctl stop portcullis@demo.service");
    agent.must("portcullis run side last 2>&1");
    is_started(&machine, "last");
    assert_eq!(starts(&machine).len(), wanted.len() + 1);
    assert!(starts(&machine).values().all(|count| *count == 1));
}

/// Kills the launcher at points of no pattern until all lines are written and nothing is left to do; says how often.
fn kill_until_done(agent: &Agent, lines: usize, mut is_written: impl FnMut() -> bool) -> usize {
    let machine = agent.machine;
    let (mut kills, mut started) = (0, 0);
    let mut seed = u64::from(std::process::id()) | 1;
    while !is_written() || !is_done(machine) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let goal = started + 1 + usize::try_from(seed % 8).unwrap();
        holds("more are started", || {
            started = starts(machine).len();
            started >= goal || (started == lines && is_done(machine))
        });
        sleep(Duration::from_micros(seed % 300_000));
        if let Some(launcher) = launcher(agent) {
            launcher.signal(Signal::KILL);
            kills += 1;
        }
    }
    kills
}

#[test]
fn of_16_writers_lines_none_is_lost_or_launched_twice_while_systemd_restarts_the_launcher() {
    let each = storm_lines(4);
    let machine = Machine::with_package();
    let agent = set_up(&machine);
    let mut writers = machine.command("sh");
    let line = agent.line(&format!(
        "cd /var/lib/portcullis/spool/side
         for w in $(seq {WRITERS}); do
             for n in $(seq {each}); do
                 if [ $(((w + n) % 2)) = 0 ]; then SPOOL=. LOCK=lock wrapper w$w-$n
                 else portcullis run side w$w-$n 2>/dev/null; fi || echo w$w-$n
             done &
         done
         wait"
    ));
    let writers = writers.args(["-c", &line]).stdout(Stdio::piped());
    let mut writers = writers.spawn().unwrap();
    let end = AtomicBool::new(false);
    let (kills, wait) = thread::scope(|scope| {
        let _end = Stop::at(&end);
        let lock = machine.path("/srv/demo/side/lock");
        let end = &end;
        let probe = scope.spawn(move || longest_wait(&lock, end));
        let is_written = || writers.try_wait().unwrap().is_some();
        let kills = kill_until_done(&agent, WRITERS * each, is_written);
        end.store(true, Relaxed);
        (kills, probe.join().unwrap())
    });
    println!("{kills} kills, the longest wait for the lock {wait:?}");
    assert!(kills > 0);
    assert!(wait < storm_patience(), "{wait:?}");
    let said = writers.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "", "not written");
    holds("a launcher is back", || launcher(&agent).is_some());
    holds("all is done", || is_done(&machine));
    let wanted: BTreeMap<String, usize> = (1..=WRITERS)
        .flat_map(|writer| (1..=each).map(move |n| (format!("w{writer}-{n}"), 1)))
        .collect();
    for token in wanted.keys() {
        is_started(&machine, token);
    }
    assert_eq!(starts(&machine), wanted);
    is_watching(&machine);
}
