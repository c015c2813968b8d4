//! Two agents of one host: what one does, the other does not feel.

use crate::agent::Agent;
use portcullis_tests::{Machine, keep};
use serde_json::Value;
use std::process::Stdio;

/// Pings of one agent while the other floods: what is promised for 99 of 100, in microseconds.
const PATIENCE: u64 = 250_000;

fn rules(name: &str, running: usize) -> String {
    format!(
        r#"
[limits]
launches = "1000/s"
running = {running}
[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{{ min = 1, pattern = "{{seconds:int}}" }}]
[launch.container]
name = "{name}-{{seconds}}"
user = "42435:42435"
pids = 0
"#
    )
}

fn number(answer: &Value) -> i32 {
    i32::try_from(answer["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn an_agent_neither_sees_nor_stops_nor_takes_what_is_anothers() {
    let machine = Machine::with_package();
    let red = Agent::new(&machine, "red", &rules("red", 2));
    // An operator's slip: blue's policy makes names that are red's.
    let blue = Agent::new(&machine, "blue", &rules("red", 100));
    let reds = red.run("sleep 1000");
    assert_eq!(reds["answer"], "launched", "{reds}");
    let process = machine.process(number(&reds));

    assert_eq!(blue.must("ls /run/portcullis"), "broker.sock");
    let denied = blue.run("sleep 1000");
    assert_eq!(denied["reason"], "name", "{denied}");
    let signal = blue.line(&format!("kill -TERM {}", number(&reds)));
    assert!(!machine.shell(&signal).status.success());
    assert!(process.is_alive());

    // One that has used up what it may has used up nothing of the other's.
    assert_eq!(red.run("sleep 1001")["answer"], "launched");
    assert_eq!(red.run("sleep 1002")["reason"], "limit-running");
    for seconds in 2000..2004 {
        let answer = blue.run(&format!("sleep {seconds}"));
        assert_eq!(answer["answer"], "launched", "{answer}");
    }

    // Nor does the end of one service end the other.
    machine.must("systemctl stop portcullis@blue.socket portcullis@blue.service");
    assert!(red.is_serving() && process.is_alive());
}

/// What the flood does to launches, too, is left in `target/host`: two processors are busy with the flood itself, and how
/// much of them podman gets is the kernel's matter.
#[test]
fn a_flood_of_one_agent_leaves_the_others_pings_under_250_ms() {
    let machine = Machine::with_package();
    let red = Agent::new(&machine, "red", &rules("red", 100));
    let blue = Agent::new(&machine, "blue", &rules("blue", 100));
    machine.give(env!("CARGO_BIN_EXE_load").as_ref(), "/usr/local/bin/load");
    let socket = "/run/portcullis/broker.sock";
    let measure = |what: &str| -> Value {
        serde_json::from_str(&blue.must(&format!("load {what}"))).unwrap()
    };
    let pings = format!("ping {socket} 500");
    let quiet = measure(&pings);
    let quiet_launches = measure(&format!("launch {socket} 1000 20"));

    red.must("touch /srv/red/go");
    let mut flood = machine.command("sh");
    let line = red.line(&format!("load flood {socket} /srv/red/go"));
    let flood = flood.args(["-c", &line]);
    let flood = flood.stdout(Stdio::piped()).spawn().unwrap();
    let flooded = measure(&pings);
    let flooded_launches = measure(&format!("launch {socket} 2000 20"));
    red.must("rm /srv/red/go");
    let done = flood.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let sent: Value = serde_json::from_slice(&done.stdout).unwrap();
    let numbers = serde_json::json!({
        "pings": quiet, "pings in a flood": flooded,
        "launches": quiet_launches, "launches in a flood": flooded_launches,
        "datagrams of the flood": sent["sent"],
    });
    keep("flood.json", &format!("{numbers:#}\n"));
    assert!(sent["sent"].as_u64().unwrap() > 1000, "{sent}");
    assert!(flooded["p99_us"].as_u64().unwrap() < PATIENCE, "{flooded}");
    assert!(red.is_serving() && blue.is_serving());
}
