//! The policy's files: unusable or unsafe ones are no policy, the socket stays usable, and a reload mends it.

use portcullis_tests::{Agent, Host, SLEEP, Service, Stop, denied, launch, launched};
use portcullis_wire::{Body, Pong, Reason, Reply};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const DROP_IN: &str = r#"
[[launch]]
rule = "more"
command = "more"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "more"
user = "0:0"
"#;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn pong(service: &Service) -> Pong {
    match service.client().call(Body::Ping) {
        Reply::Pong(pong) => pong,
        other => panic!("{other:?}"),
    }
}

/// Spoils the policy, starts, looks that nothing is launched and that the socket is served; mends it, reloads, launches.
#[track_caller]
fn unavailable_until_mended(spoil: impl FnOnce(&Agent), mend: impl FnOnce(&Agent)) {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    spoil(&agent);
    let mut service = agent.start();
    let mut client = service.client();
    let reply = client.launch(launch("sleep", &["100"]));
    assert_eq!(denied(reply), Reason::PolicyUnavailable);
    assert_eq!(
        denied(client.launch(launch("reboot", &[]))),
        Reason::PolicyUnavailable
    );
    assert_eq!(pong(&service).generation, "", "the socket is served");
    assert!(host.engine().calls().runs().is_empty());
    assert!(service.is_running());
    mend(&agent);
    service.reload();
    assert_eq!(pong(&service).generation.len(), 16);
    let _ = launched(service.client().launch(launch("sleep", &["100"])));
}

#[test]
fn invariant_5_a_group_writable_policy_is_unavailable_until_mended() {
    unavailable_until_mended(
        |agent| mode(&agent.policy(), 0o664),
        |agent| mode(&agent.policy(), 0o644),
    );
}

#[test]
fn invariant_5_a_policy_writable_by_all_is_unavailable_until_mended() {
    unavailable_until_mended(
        |agent| mode(&agent.policy(), 0o646),
        |agent| mode(&agent.policy(), 0o600),
    );
}

#[test]
fn invariant_5_a_policy_of_another_owner_is_unavailable_until_mended() {
    unavailable_until_mended(
        |agent| chown(agent.policy(), Some(65534), None).unwrap(),
        |agent| chown(agent.policy(), Some(0), None).unwrap(),
    );
}

#[test]
fn invariant_5_a_symlinked_policy_is_unavailable_until_mended() {
    unavailable_until_mended(
        |agent| {
            let elsewhere = agent.policy().with_extension("elsewhere");
            fs::rename(agent.policy(), &elsewhere).unwrap();
            symlink(elsewhere, agent.policy()).unwrap();
        },
        |agent| {
            let elsewhere = agent.policy().with_extension("elsewhere");
            fs::rename(elsewhere, agent.policy()).unwrap();
        },
    );
}

#[test]
fn invariant_5_a_half_written_policy_is_unavailable_until_mended() {
    let host = Host::new();
    let whole = host.agent("whole", SLEEP).policy_text();
    let half = whole.get(..whole.len() - 40).unwrap().to_owned();
    unavailable_until_mended(
        |agent| agent.write_policy(&half),
        |agent| {
            agent.write_policy(&whole.replace(
                &host.shared().display().to_string(),
                &agent.host().shared().display().to_string(),
            ))
        },
    );
}

#[test]
fn invariant_5_a_missing_policy_is_unavailable_until_it_is_there() {
    unavailable_until_mended(
        |agent| fs::rename(agent.policy(), agent.policy().with_extension("away")).unwrap(),
        |agent| fs::rename(agent.policy().with_extension("away"), agent.policy()).unwrap(),
    );
}

#[test]
fn invariant_5_a_policy_that_is_a_directory_or_a_fifo_is_unavailable_until_mended() {
    for make in ["mkdir", "mkfifo"] {
        unavailable_until_mended(
            |agent| {
                fs::rename(agent.policy(), agent.policy().with_extension("away")).unwrap();
                let made = std::process::Command::new(make)
                    .arg(agent.policy())
                    .status();
                assert!(made.unwrap().success());
            },
            |agent| {
                let path = agent.policy();
                let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
                fs::rename(path.with_extension("away"), path).unwrap();
            },
        );
    }
}

#[test]
fn invariant_5_a_policy_in_a_directory_that_others_can_write_to_is_unavailable_until_mended() {
    unavailable_until_mended(
        |agent| mode(agent.policy().parent().unwrap(), 0o777),
        |agent| mode(agent.policy().parent().unwrap(), 0o755),
    );
}

#[test]
fn invariant_5_one_bad_drop_in_makes_the_whole_policy_unavailable() {
    let drop_ins = |agent: &Agent| agent.policy().with_extension("d");
    unavailable_until_mended(
        |agent| {
            fs::create_dir(drop_ins(agent)).unwrap();
            fs::write(drop_ins(agent).join("10-more.toml"), DROP_IN).unwrap();
            mode(&drop_ins(agent).join("10-more.toml"), 0o666);
        },
        |agent| mode(&drop_ins(agent).join("10-more.toml"), 0o644),
    );
}

#[test]
fn invariant_5_a_broken_reload_keeps_the_old_policy_and_says_so() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let before = pong(&service).generation;
    assert_eq!(before.len(), 16);
    let good = agent.policy_text();
    agent.write_policy("version = 1\n[[launch]]\nrule = \"everything\"\n");
    let lines = service.audit().lines().len();
    service.reload();
    assert_eq!(pong(&service).generation, before, "the old one is in force");
    let _ = launched(service.client().launch(launch("sleep", &["100"])));
    assert_eq!(
        denied(service.client().launch(launch("everything", &[]))),
        Reason::NoRule
    );
    let audit = service.audit();
    let said = &audit.lines()[lines..];
    let loud = |line: &&serde_json::Value| {
        let level = line["level"].as_str().unwrap_or_default();
        ["ERROR", "WARN"].contains(&level) && line.to_string().contains("blue.toml")
    };
    assert!(said.iter().any(|line| loud(&line)), "{said:?}");
    // A good one is taken again.
    agent.write_policy(&(good + DROP_IN));
    service.reload();
    assert_ne!(pong(&service).generation, before);
    let _ = launched(service.client().launch(launch("more", &[])));
}

#[test]
fn a_reload_takes_rules_away_and_adds_drop_ins() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let mut old = service.client();
    assert!(old.is_served());
    assert_eq!(
        denied(service.client().launch(launch("more", &[]))),
        Reason::NoRule
    );
    let drop_ins = agent.policy().with_extension("d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(drop_ins.join("10-more.toml"), DROP_IN).unwrap();
    fs::write(drop_ins.join("README"), "not a policy").unwrap();
    agent.write_policy("version = 1\n[peer]\nuid = [0]\n");
    service.reload();
    let _ = launched(service.client().launch(launch("more", &[])));
    assert_eq!(
        denied(service.client().launch(launch("sleep", &["1"]))),
        Reason::NoRule
    );
}

/// The side container of one generation of the policy: rule, name, label and argument say which. A request says nothing.
fn generation(name: &str, seconds: &str) -> String {
    format!(
        r#"
[limits]
launches = "1000000/s"
in_flight = 1000
[[launch]]
rule = "{name}"
command = "which"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "{seconds}"]
[launch.container]
name = "{name}"
user = "0:0"
"#
    )
}

#[test]
fn no_request_is_lost_or_sees_a_mix_while_the_policy_is_reloaded() {
    const GENERATIONS: [(&str, &str); 2] = [("alder", "1111"), ("birch", "2222")];
    let rounds = std::env::var("PORTCULLIS_RELOADS").map_or(30, |n| n.parse().unwrap());
    let host = Host::new();
    let agent = host.agent("blue", &generation("alder", "1111"));
    let head = agent
        .policy_text()
        .replace(&generation("alder", "1111"), "");
    let service = agent.start();
    let which = |reply| {
        let name = launched(reply).name;
        assert!(["alder", "birch"].contains(&name.as_str()), "{name}");
        name
    };
    assert_eq!(
        which(service.client().launch(launch("which", &[]))),
        "alder"
    );
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut asked = 0;
                    while !end.load(Relaxed) {
                        // A new connection each time, as the client does. One that the draining broker has shut
                        // before anything was sent is made again; what was sent is answered.
                        let mut client = service.client();
                        if client.send(Body::Launch(launch("which", &[]))).is_ok() {
                            which(client.reply().reply);
                            asked += 1;
                        }
                    }
                    asked
                })
            })
            .collect();
        let stop = Stop::at(&end);
        for round in 1..=rounds {
            let (name, seconds) = GENERATIONS[round % 2];
            let (other, others) = GENERATIONS[(round + 1) % 2];
            agent.write_policy(&format!("{head}{}", generation(name, seconds)));
            service.reload();
            // Once the reload is done, only the new one counts, with the launcher and with the operator.
            let reply = service.client().launch(launch("which", &[]));
            assert_eq!(which(reply), name, "round {round}");
            let mut dry = launch("which", &[]);
            dry.dry_run = true;
            let Reply::Explained { report, .. } = service.operator().launch(dry) else {
                panic!("not explained");
            };
            assert!(
                report.contains(name) && report.contains(seconds),
                "{report}"
            );
            assert!(
                !report.contains(other) && !report.contains(others),
                "{report}"
            );
        }
        drop(stop);
        for asker in askers {
            assert!(asker.join().unwrap() > 10);
        }
    });
    // What the audit says of the policy that decided is true, too: with each rule stands its own generation alone.
    let audit = service.audit();
    let mut generations = BTreeMap::<_, BTreeSet<_>>::new();
    let reused = audit.with("verdict", "reused");
    for record in audit.with("verdict", "launched").into_iter().chain(reused) {
        let text = |field: &str| record[field].as_str().unwrap().to_owned();
        generations
            .entry(text("rule"))
            .or_default()
            .insert(text("generation"));
    }
    assert_eq!(generations.len(), 2);
    assert!(
        generations.values().all(|of| of.len() == 1),
        "{generations:?}"
    );
    // Each was started once and whole: what follows is an answer about that one.
    let calls = host.engine().calls();
    assert_eq!(calls.runs().len(), 2, "{calls:?}");
    for (name, seconds) in GENERATIONS {
        let run = calls.run_of(name);
        let program = format!("[\"/bin/sleep\",\"{seconds}\"]");
        assert_eq!(run.values("--entrypoint"), [program]);
        let rule = format!("io.portcullis.rule={name}");
        assert!(run.values("--label").contains(&rule.as_str()), "{run:?}");
    }
    service.launcher().signal(Signal::TERM);
    assert!(service.wait().success());
}

#[test]
fn a_peer_that_the_policy_does_not_name_gets_nothing() {
    let host = Host::new();
    let policy = format!("version = 1\n[peer]\nuid = [12345]\n{SLEEP}");
    let agent = host.agent_with_policy("blue", &policy);
    let service = agent.start();
    let mut client = service.client();
    assert_eq!(
        denied(client.launch(launch("sleep", &["100"]))),
        Reason::Peer
    );
    assert_eq!(client.receive().unwrap(), None, "and its connection ends");
    assert_eq!(denied(service.client().call(Body::Ping)), Reason::Peer);
    assert!(host.engine().calls().runs().is_empty());
}
