//! Capability truth: what the container has is what the rule says, no more and no less.

use portcullis_tests::{Host, Process, launch, launched};
use std::fmt::Write;

/// The numbers of linux/capability.h.
const NUMBERS: &[(&str, u32)] = &[
    ("CHOWN", 0),
    ("SETGID", 6),
    ("SETUID", 7),
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("SYS_ADMIN", 21),
];

/// The profiles of Neutron's helpers, none at all, and one that nobody should have.
const PROFILES: &[&[&str]] = &[
    &[],
    &["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"],
    &["NET_BIND_SERVICE"],
    &["NET_ADMIN", "NET_RAW"],
    &["NET_ADMIN", "NET_RAW", "SETGID"],
    &["CHOWN", "SETUID"],
    &["SYS_ADMIN"],
];

const USERS: &[&str] = &["0:0", "42435:42435"];

fn mask(profile: &[&str]) -> u64 {
    let bit = |name: &&str| {
        NUMBERS
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, bit)| 1 << bit)
    };
    profile.iter().map(|name| bit(name).unwrap()).sum()
}

#[test]
fn invariant_8_the_capabilities_in_the_container_equal_the_rule_for_every_profile() {
    let mut rules = String::new();
    for (p, profile) in PROFILES.iter().enumerate() {
        for (u, user) in USERS.iter().enumerate() {
            write!(
                rules,
                r#"
[[launch]]
rule = "profile-{p}-{u}"
command = "profile-{p}-{u}"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "profile-{p}-{u}"
user = "{user}"
capabilities = {profile:?}
"#
            )
            .unwrap();
        }
    }
    let host = Host::new();
    let agent = host.agent("blue", &rules);
    let _service = agent.start();
    let mut client = agent.client();
    for (p, profile) in PROFILES.iter().enumerate() {
        for (u, user) in USERS.iter().enumerate() {
            let answer = launched(client.launch(launch(&format!("profile-{p}-{u}"), &[])));
            let process = answer.process();
            for set in ["CapBnd", "CapEff", "CapPrm"] {
                let (is, should) = (process.capabilities(set), mask(profile));
                assert_eq!(
                    is, should,
                    "{set} of {profile:?} as {user}: {is:x}, not {should:x}"
                );
            }
            let inheritable = process.capabilities("CapInh") | process.capabilities("CapAmb");
            assert_eq!(inheritable & !mask(profile), 0);
            let status = process.status();
            assert_eq!(status["NoNewPrivs"], "1");
            assert_eq!(status["Seccomp"], "2", "the engine's seccomp profile");
            let uid = user.split(':').next().unwrap();
            assert_eq!(status["Uid"].split_whitespace().next(), Some(uid));
        }
    }
}

#[test]
fn what_a_rule_does_not_say_is_closed() {
    let rules = r#"
[[launch]]
rule = "plain"
command = "plain"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "plain"
user = "0:0"
"#;
    let host = Host::new();
    let agent = host.agent("blue", rules);
    let _service = agent.start();
    let answer = launched(agent.client().launch(launch("plain", &[])));
    let process = answer.process();
    let me = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
    for namespace in ["net", "pid", "mnt", "ipc", "uts"] {
        let of = |p: Process| std::fs::read_link(p.file("ns").join(namespace)).unwrap();
        assert_ne!(of(process), of(me), "{namespace}");
    }
    // No network but its own loopback.
    let devices = std::fs::read_to_string(process.file("net/dev")).unwrap();
    let names: Vec<_> = devices.lines().filter_map(|l| l.split_once(':')).collect();
    assert!(
        names.iter().all(|(name, _)| name.trim() == "lo"),
        "{devices}"
    );
    // A read-only root.
    let error = std::fs::write(process.file("root/bin/x"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let calls = host.engine().calls();
    let run = calls.run_of("plain");
    assert!(
        run.values("--pids-limit")
            .iter()
            .any(|l| l.parse::<u32>().is_ok_and(|l| l > 0))
    );
    assert_eq!(run.values("--pull"), ["never"]);
    assert_eq!(run.values("--cap-drop"), ["all"]);
    assert_eq!(run.values("--network"), ["none"]);
    assert!(run.values("--security-opt").contains(&"no-new-privileges"));
}
