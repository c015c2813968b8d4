//! The package itself: what systemd thinks of its units, and what is left when it goes.

use crate::agent::Agent;
use portcullis_tests::{Machine, keep};

const RULES: &str = r#"
[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "sleep"
user = "42435:42435"
pids = 0
"#;

/// `systemd-analyze security` of the service, for the documents, is left in `target/host`.
#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let machine = Machine::with_package();
    let said = machine.must(
        "systemd-analyze verify --man=no portcullis@demo.service portcullis@demo.socket portcullis.target 2>&1",
    );
    assert_eq!(said, "");
    let security = machine.must("systemd-analyze security --no-pager portcullis@demo.service");
    keep("systemd-analyze-security.txt", &(security + "\n"));
}

#[test]
fn a_purge_leaves_side_containers_and_the_operators_policies() {
    let machine = Machine::with_package();
    let agent = Agent::new(&machine, "demo", RULES);
    let answer = agent.run("sleep");
    let number = i32::try_from(answer["pid"].as_i64().unwrap()).unwrap();
    let side = machine.process(number);
    machine.must(
        "rm /root/package.deb && DEBIAN_FRONTEND=noninteractive apt-get purge --yes portcullis",
    );

    assert!(side.is_alive());
    assert_eq!(
        machine.must("podman ps --format='{{.Names}}' --filter=name=sleep"),
        "sleep"
    );
    assert!(machine.running("portcullis-launcher").is_empty());
    assert!(machine.running("portcullis-broker").is_empty());
    let units = machine.must("systemctl list-units --all --plain --no-legend 'portcullis*'");
    assert_eq!(units, "");
    // Other file systems are the kernel's, and podman's store.
    let left = machine.must("find / /run /tmp -xdev -iname '*portcullis*' | sort");
    assert_eq!(left, "/etc/portcullis");
    assert_eq!(
        machine.must("find /etc/portcullis -type f"),
        agent.policy_path()
    );
    // Its number is not given to somebody else.
    machine.must("getent passwd portcullis");
}
