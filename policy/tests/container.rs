//! What a side container gets when the rule does not say otherwise, and what each setting makes of podman's command
//! line.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use support::*;

fn line(container: &str) -> Vec<String> {
    podman(&allowed(
        &loaded(&one_rule("", &format!("name = \"c-x\"\n{container}"))),
        &ask(&[]),
    ))
}

#[test]
fn every_container_is_confined_unless_the_rule_says_otherwise() {
    let hash = |word: &str| match word.split_once("plan=") {
        Some((before, _)) => format!("{before}plan=HASH"),
        None => word.to_owned(),
    };
    let words: Vec<String> = line("").iter().map(|word| hash(word)).collect();
    assert_eq!(
        words,
        [
            "run",
            "--detach",
            "--name=c-x",
            "--pull=never",
            "--network=none",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--read-only=true",
            "--user=1000:1000",
            "--pids-limit=256",
            "--stop-timeout=10",
            "--pidfile=/staged/pid",
            "--label=io.portcullis.agent=dhcp",
            "--label=io.portcullis.rule=r",
            "--label=io.portcullis.plan=HASH",
            "--label=io.portcullis.launch=NONCE",
            "--",
            "IMAGE_ID",
        ]
    );
}

#[test]
fn each_setting_has_its_option() {
    for (container, options) in [
        (
            "capabilities = [\"CHOWN\", \"KILL\"]",
            &["--cap-drop=all", "--cap-add=CHOWN", "--cap-add=KILL"][..],
        ),
        ("pid = \"host\"", &["--pid=host"]),
        ("network = \"host\"", &["--network=host"]),
        ("privileged = true", &["--privileged=true"]),
        ("devices = [\"/dev/net/tun\"]", &["--device=/dev/net/tun"]),
        ("memory = \"256MiB\"", &["--memory=268435456b"]),
        ("pids = 64", &["--pids-limit=64"]),
        ("pids = 0", &["--pids-limit=-1"]),
        ("log = \"journald\"", &["--log-driver=journald"]),
        (
            "selinux = [\"type:container_net_t\", \"level:s0\"]",
            &[
                "--security-opt=label=type:container_net_t",
                "--security-opt=label=level:s0",
            ],
        ),
        (
            "apparmor = \"portcullis\"",
            &["--security-opt=apparmor=portcullis"],
        ),
        (
            "seccomp = \"/etc/portcullis/x.json\"",
            &["--security-opt=seccomp=/etc/portcullis/x.json"],
        ),
        ("stop_timeout = \"1min\"", &["--stop-timeout=60"]),
        (
            "environment = [\"A=b c\", \"X={agent}-{rule}-{command}\"]",
            &["--env=A=b c", "--env=X=dhcp-r-c"],
        ),
        (
            "mounts = [{ source = \"/srv/a\", mode = \"ro\" }, { source = \"/srv/b\", target = \"/c\", mode = \"rw\" }]",
            &[
                "--volume=/staged/1:/srv/a:ro,nosuid,nodev",
                "--volume=/staged/2:/c:rw,nosuid,nodev",
            ],
        ),
    ] {
        let line = line(container);
        for option in options {
            assert!(
                line.contains(&(*option).to_owned()),
                "{container}: {line:?}"
            );
        }
    }
    assert!(!line("privileged = true").contains(&"--cap-drop=all".to_owned()));
    assert!(!line("read_only = false").contains(&"--read-only=true".to_owned()));
    assert!(
        !line("no_new_privileges = false").contains(&"--security-opt=no-new-privileges".to_owned())
    );
}

#[test]
fn a_program_is_an_entrypoint_in_json() {
    let program = loaded(&one_rule(
        "program = [\"/bin/x\", \"a \\\"b\\\" \\\\\", \"ä\"]",
        "name = \"c-x\"",
    ));
    let line = podman(&allowed(&program, &ask(&[])));
    assert!(
        line.contains(&"--entrypoint=[\"/bin/x\",\"a \\\"b\\\" \\\\\",\"ä\"]".to_owned()),
        "{line:?}"
    );
}

#[test]
fn what_was_not_staged_is_not_had() {
    let plan = allowed(neutron(), &dnsmasq());
    let staged = portcullis_policy::Staged {
        image_id: "IMAGE_ID",
        netns: None,
        mounts: &[],
        pid_file: "/staged/pid",
        nonce: "NONCE",
        cgroup_parent: None,
    };
    let line = portcullis_policy::podman_arguments(&plan, &staged);
    assert!(line.contains(&"--network=none".to_owned()));
    assert!(!line.iter().any(|word| word.starts_with("--volume")));
}

#[test]
fn the_first_rule_that_matches_whole_wins() {
    let two = one_rule("args = [\"--a={:int}\", \"--b\"]", "name = \"c-x\"")
        + &one_rule("args = [\"--a={:word}\"]", "name = \"d-x\"")
            .replace("version = 1\n", "")
            .replace("rule = \"r\"", "rule = \"s\"");
    let policy = loaded(&two);
    assert_eq!(allowed(&policy, &ask(&["--a=5"])).rule(), "r");
    assert_eq!(allowed(&policy, &ask(&["--a=x"])).rule(), "s");
    let denial = denied(&policy, &ask(&["--b", "--a=?"]));
    assert_eq!(
        denial.rule.as_deref(),
        Some("r"),
        "the one that came further"
    );
}

#[test]
fn what_a_failed_attempt_has_bound_is_forgotten() {
    let policy =
        rule("args = [{ any = [[\"-r\", \"{a:int}\", \"x{a}\"], [\"-r\", \"7\", \"{a:int}\"]] }]");
    allowed(&policy, &ask(&["-r", "7", "x7"]));
    allowed(&policy, &ask(&["-r", "7", "9"]));
    denied(&policy, &ask(&["-r", "8", "x9"]));
}

#[test]
fn an_image_that_is_a_pattern_has_to_be_named() {
    let toml = one_rule("", "name = \"c-x\"").replace("localhost/i:1", "localhost/i:{tag:word}");
    let policy = loaded(&toml.replace("c-x", "c-{tag}"));
    assert_eq!(
        denied(&policy, &ask(&[])).reason,
        portcullis_wire::Reason::Image
    );
    let mut request = ask(&[]);
    request.image = Some("localhost/i:v2".to_owned());
    let plan = allowed(&policy, &request);
    assert_eq!((plan.image(), plan.name()), ("localhost/i:v2", "c-v2"));
}

#[test]
fn the_first_image_is_the_default_and_the_others_can_be_asked_for() {
    let toml = one_rule("", "name = \"c-x\"").replace(
        "\"localhost/i:1\"",
        "[\"localhost/i:1\", \"localhost/i:2\"]",
    );
    let policy = loaded(&toml);
    assert_eq!(allowed(&policy, &ask(&[])).image(), "localhost/i:1");
    let mut request = ask(&[]);
    request.image = Some("localhost/i:2".to_owned());
    assert_eq!(allowed(&policy, &request).image(), "localhost/i:2");
}

#[test]
fn the_exemplary_rules_of_the_documentation_load() {
    let document = include_str!("../../docs/policy.md");
    let mut found = 0;
    for block in document.split("```toml\n").skip(1) {
        let toml = block.split("```").next().unwrap();
        if toml.contains("version = 1") {
            loaded(toml);
            found += 1;
        }
    }
    assert!(found > 0);
}
