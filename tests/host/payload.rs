//! What a payload of a launch through the unit is given, compared with the same podman command of root's.

use crate::agent::Agent;
use portcullis_tests::{Machine, inheritance};
use serde_json::Value;

const RULES: &str = r#"
[[launch]]
rule = "plain"
command = "plain"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
env = ["DEBUG={:one(0|1)}"]
[launch.container]
name = "plain"
user = "42435:42435"
capabilities = ["NET_ADMIN"]
environment = ["PROCESS_TAG=plain"]
mounts = [{ source = "{dir}", target = "/shared", mode = "rw" }]
pids = 0
"#;

#[test]
fn invariant_8_a_side_container_of_the_unit_is_the_same_as_one_that_root_typed() {
    let machine = Machine::with_package();
    let agent = Agent::new(&machine, "demo-1", RULES);
    let answer = agent.run("--env DEBUG=1 plain");
    assert_eq!(answer["answer"], "launched", "{answer}");
    let words = machine.must("podman inspect --format='{{json .Config.CreateCommand}}' plain");
    let words: Vec<String> = serde_json::from_str(&words).unwrap();
    let typed: Vec<String> = words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("--name", _)) => "--name=typed".into(),
            Some(("--pidfile", _)) => "--pidfile=/root/typed.pid".into(),
            // The staged one is gone; root names the source itself.
            Some(("--volume", value)) => {
                let (_, rest) = value.split_once(':').unwrap();
                format!("--volume=/srv/demo-1:{rest}")
            }
            _ => word,
        })
        .collect();
    // With what systemd gives a login, and not what the tests' own shell has.
    let mut root = machine.command("systemd-run");
    root.args(["--quiet", "--pipe", "--wait", "--collect", "env", "-i"]);
    root.args(["PATH=/usr/sbin:/usr/bin", "HOME=/root", "TERM=xterm"]);
    let done = root.args(&typed).output().unwrap();
    assert!(done.status.success(), "{typed:?}: {done:?}");

    let given = |name: &str| {
        let format = "'{\"id\": \"{{.Id}}\", \"pid\": {{.State.Pid}}}'";
        let state = machine.must(&format!("podman inspect --format={format} {name}"));
        let state: Value = serde_json::from_str(&state).unwrap();
        let pid = i32::try_from(state["pid"].as_i64().unwrap()).unwrap();
        inheritance(machine.process(pid), state["id"].as_str().unwrap())
    };
    let (ours, typed) = (given("plain"), given("typed"));
    assert!(ours["environment"].contains("PROCESS_TAG=plain"));
    assert!(
        ours["cgroup"].contains(r"/portcullis.slice/portcullis-demo\x2d1.slice/libpod-ID.scope"),
        "{}",
        ours["cgroup"]
    );
    for (key, value) in &typed {
        assert_eq!(
            ours.get(key),
            Some(value),
            "{key} differs from what root's has"
        );
    }
    assert_eq!(ours.len(), typed.len());
}
