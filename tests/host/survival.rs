//! Fifty side containers through everything that befalls the service: each main process and its conmon live on, podman
//! knows it, what they write is logged, and a repeat finds them.
//!
//! `PORTCULLIS_ROUNDS` says how often each is tried; twenty is what the project promises, five what every run does.

use crate::agent::Agent;
use portcullis_tests::{Machine, Process, holds};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;

const SIDES: usize = 50;

/// Says what is written to its pipe: so that logs can be asked for at any time, and cost nothing in between.
const RULES: &str = r#"
[limits]
launches = "1000/s"

[[launch]]
rule = "echo"
command = "echo"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "exec 3<>/in/pipe; while read -r line <&3; do echo \"$line\"; done"]
args = [{ min = 1, pattern = "{number:int}" }]
[launch.container]
name = "echo-{number}"
user = "42435:42435"
mounts = [{ source = "{dir}/{number}", target = "/in", mode = "rw" }]
log = "journald"
pids = 0
"#;

/// The side containers by name: full ID, main process, conmon.
type Sides = BTreeMap<String, (String, Process, Process)>;

struct Host<'m> {
    agent: Agent<'m>,
    sides: Sides,
    said: usize,
}

impl<'m> Host<'m> {
    fn new(machine: &'m Machine) -> Self {
        let agent = Agent::new(machine, "demo", RULES);
        agent.must(&format!(
            "for n in $(seq {SIDES}); do mkdir /srv/demo/$n && mkfifo /srv/demo/$n/pipe; done"
        ));
        agent.must(&format!(
            "seq {SIDES} | xargs -P 4 -n 1 portcullis run --timeout=120 echo"
        ));
        let sides = sides(machine);
        assert_eq!(sides.len(), SIDES);
        Self {
            agent,
            sides,
            said: 0,
        }
    }

    /// All of them are the ones that were started, podman says so, they are heard, and a repeat is answered with them.
    #[track_caller]
    fn all_live_on(&mut self) {
        for (name, (_, main, conmon)) in &self.sides {
            assert!(main.is_alive() && conmon.is_alive(), "{name}");
        }
        assert_eq!(sides(self.agent.machine), self.sides, "podman ps is true");
        self.all_are_heard();
        let answer = self.agent.run("echo 1");
        assert_eq!(answer["answer"], "launched", "{answer}");
        assert_eq!(answer["reused"], true, "{answer}");
        assert_eq!(answer["container"], self.sides["echo-1"].0.as_str());
    }

    #[track_caller]
    fn all_are_heard(&mut self) {
        let machine = self.agent.machine;
        self.said += 1;
        let word = format!("word-{}", self.said);
        for number in 1..=SIDES {
            let pipe = machine.path(&format!("/srv/demo/{number}/pipe"));
            let pipe = OpenOptions::new().read(true).write(true).open(pipe);
            writeln!(pipe.unwrap(), "{word}").unwrap();
        }
        let ids: BTreeSet<&str> = self.sides.values().map(|(id, ..)| id.as_str()).collect();
        holds("every side container's word is in the journal", || {
            let said = machine.journal(&format!(
                "_EXE=/usr/bin/conmon --lines={} --output-fields=CONTAINER_ID_FULL,MESSAGE",
                2 * SIDES
            ));
            // Some conmons leave the newline there.
            let said = said.iter().filter(|entry| {
                let message = entry["MESSAGE"].as_str();
                message.is_some_and(|m| m.trim_end() == word)
            });
            let heard = said.filter_map(|entry| entry["CONTAINER_ID_FULL"].as_str());
            heard.collect::<BTreeSet<_>>() == ids
        });
    }

    /// The launcher that systemd has started.
    #[track_caller]
    fn launcher(&self) -> Process {
        let service = self.agent.service_unit();
        let number = self.agent.machine.property(&service, "MainPID");
        self.agent.machine.process(number.parse().unwrap())
    }
}

/// What podman says is up, and that it is there.
#[track_caller]
fn sides(machine: &Machine) -> Sides {
    let list = machine.must(
        "podman inspect --format '{{.Name}} {{.Id}} {{.State.Status}} {{.State.Pid}} {{.State.ConmonPid}}' \
         $(podman ps --quiet --filter=label=io.portcullis.agent)",
    );
    let processes = machine.processes();
    list.lines()
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(words[2], "running", "{line}");
            let process = |word: &str| processes[&word.parse().unwrap()];
            let side = (words[1].to_owned(), process(words[3]), process(words[4]));
            (words[0].to_owned(), side)
        })
        .collect()
}

fn rounds() -> usize {
    let text = std::env::var("PORTCULLIS_ROUNDS");
    text.map_or(5, |text| {
        text.parse().expect("PORTCULLIS_ROUNDS is a number")
    })
}

#[test]
fn invariant_7_fifty_side_containers_outlive_restarts() {
    let machine = Machine::with_package();
    let mut host = Host::new(&machine);
    for _ in 0..rounds() {
        let before = host.launcher();
        machine.must("systemctl restart portcullis@demo.service");
        assert!(!before.is_alive());
        host.all_live_on();
    }
}

#[test]
fn invariant_7_fifty_side_containers_outlive_stops_and_the_next_datagram_starts_the_service() {
    let machine = Machine::with_package();
    let mut host = Host::new(&machine);
    for _ in 0..rounds() {
        machine.must("systemctl stop portcullis@demo.service");
        assert!(!host.agent.is_serving());
        host.all_live_on();
        assert!(host.agent.is_serving());
    }
}

#[test]
fn invariant_7_fifty_side_containers_outlive_the_launchers_death() {
    let machine = Machine::with_package();
    let mut host = Host::new(&machine);
    for _ in 0..rounds() {
        let launcher = host.launcher();
        launcher.signal(Signal::KILL);
        holds("it is gone", || !launcher.is_alive());
        host.all_live_on();
    }
    let restarts = machine.property(&host.agent.service_unit(), "NRestarts");
    assert_eq!(restarts, rounds().to_string());
}

#[test]
fn invariant_7_fifty_side_containers_outlive_the_brokers_death() {
    let machine = Machine::with_package();
    let mut host = Host::new(&machine);
    let launcher = host.launcher();
    for _ in 0..rounds() {
        holds("a broker serves", || {
            let brokers = machine.running("portcullis-broker");
            brokers.first().is_some_and(|b| {
                b.signal(Signal::KILL);
                true
            })
        });
        host.all_live_on();
    }
    assert_eq!(host.launcher(), launcher);
}

#[test]
fn invariant_7_fifty_side_containers_outlive_upgrades_of_the_package() {
    let machine = Machine::with_package();
    let mut host = Host::new(&machine);
    machine.must("dpkg-deb --raw-extract /root/package.deb /root/package");
    for round in 1..=rounds() {
        let before = host.launcher();
        machine.must(&format!(
            "cd /root && sed -i 's/^Version: .*/Version: 1000.{round}/' package/DEBIAN/control && \
             dpkg-deb --build -Zgzip -z1 package newer.deb && apt-get install --yes ./newer.deb"
        ));
        assert!(!before.is_alive(), "the new one serves");
        host.all_live_on();
    }
}
