//! A broker that has been taken over (`hostile_broker/main.rs`) and is given a line: it can have launched what the policy
//! allows to lines of that spool, and nothing else.

use crate::{NAP, SLEEP, denied, launched, with_spool, with_spools};
use portcullis_tests::{Host, LINES, Spool, binary, holds, launch};
use portcullis_wire::{Body, Reply};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A copy of it whose name says the attack.
fn broker(host: &Host, attack: &str) -> PathBuf {
    let dir = host.path().join("hostile");
    fs::create_dir_all(&dir).unwrap();
    // It starts itself again as the broker's user.
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.join(format!("hostile-broker.{attack}"));
    put(&path, env!("CARGO_BIN_EXE_hostile-broker").as_ref());
    path
}

/// Puts a broker in the place of the one that the launcher starts.
fn put(broker: &Path, source: &Path) {
    let new = broker.with_extension("new");
    fs::copy(source, &new).unwrap();
    fs::rename(new, broker).unwrap();
}

#[test]
fn a_broker_that_answers_lines_as_no_honest_one_does_gets_nothing_and_loses_none() {
    for attack in 0..LINES {
        let host = Host::new();
        let (sleeps, naps) = (Spool::new(&host, "sleep"), Spool::new(&host, "nap"));
        let path = broker(&host, "lines");
        fs::write(path.with_file_name("number"), attack.to_string()).unwrap();
        let agent =
            with_spools(&host, &[SLEEP, NAP], &[&sleeps, &naps]).broker_binary(path.clone());
        sleeps.write("'' 1001");
        // What is answered to it, or its end, shows that the launcher has heard what the broker said before.
        let mut client = agent.client();
        let request = Body::Launch(launch("sleep", &["100"]));
        client.send(request).unwrap();
        let mut service = agent.start();
        let heeded = match client.receive().unwrap().map(|response| response.reply) {
            None => "cut off",
            Some(Reply::Launched { .. }) => "not heeded",
            Some(other) => panic!("{attack}: {other:?}"),
        };
        println!("{attack}: {heeded}");
        assert!(service.is_running() && service.operator().is_served());

        // An honest one has the line launched, or it is on record that it was denied.
        put(&path, &binary("portcullis-broker"));
        service.kill();
        let service = agent.start();
        sleeps.wait_until_done(&agent);
        assert!(service.client().is_served());
        let audit = service.audit();
        let records = |verdict| audit.of_lines(sleeps.dir(), verdict).len();
        let ends = [records("launched"), records("reused"), records("denied")];
        assert!(
            ends.iter().sum::<usize>() >= 1,
            "{attack}: no word of the line"
        );
        let calls = host.engine().calls();
        for run in calls.runs() {
            let name = run.values("--name")[0];
            assert!(
                ["sleep-100", "sleep-1001"].contains(&name),
                "{attack}: {run:?}"
            );
        }
        for call in calls.all() {
            let mut words = call.arguments.iter();
            assert!(
                !words.any(|w| w == "66601" || w.contains("--privileged")),
                "{attack}: {call:?}"
            );
        }
        for record in audit.of_lines(sleeps.dir(), "denied") {
            assert!(
                record["args"].as_str().unwrap().contains("1001"),
                "what the line says: {record}"
            );
        }
        for record in audit.lines() {
            assert!(record.is_object(), "one line, one record: {record}");
            assert_ne!(record["rule"], "forged");
        }
        holds("only what was asked for is there", || {
            let containers = host.engine().containers();
            containers
                .iter()
                .all(|c| ["sleep-100", "sleep-1001"].contains(&c.name.as_str()))
        });
    }
}

/// A line of which every broker dies would otherwise be the last one that is ever looked at.
#[test]
fn a_line_over_which_brokers_end_is_denied_and_the_next_one_is_launched() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let path = broker(&host, "choke");
    let agent = with_spool(&host, &spool).broker_binary(path.clone());
    spool.write("'' 1001");
    let mut service = agent.start();
    let record = denied(&service, &spool, "internal", "1001");
    assert!(record["detail"].as_str().unwrap().contains("brokers"));
    assert!(service.is_running() && service.operator().is_served());
    put(&path, &binary("portcullis-broker"));
    spool.write("'' 1002");
    launched(&service, &spool, "sleep-1002");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().calls().runs().len(), 1);
}

/// The policy allows what such a broker makes of the line, so that only the line itself tells.
#[test]
fn misread_line_kills_broker_and_is_denied() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let path = broker(&host, "misread");
    let agent = with_spool(&host, &spool).broker_binary(path.clone());
    spool.write("'' 1001");
    let mut service = agent.start();
    let record = denied(&service, &spool, "internal", "1001");
    assert!(record["detail"].as_str().unwrap().contains("brokers"));
    assert!(service.is_running() && service.operator().is_served());
    let starts = fs::read_to_string(path.with_file_name("starts")).unwrap();
    assert!(starts.lines().count() >= 3, "{starts}");
    put(&path, &binary("portcullis-broker"));
    spool.write("'' 1002");
    launched(&service, &spool, "sleep-1002");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().calls().runs().len(), 1);
}

/// All other lines wait behind the one that a broker has.
#[test]
fn a_broker_that_keeps_a_line_to_itself_is_ended_and_the_next_one_answers_it() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let path = broker(&host, "mute");
    let agent = with_spool(&host, &spool).broker_binary(path.clone());
    spool.append(b"'' 1001\n'' 1002\n");
    let mut service = agent.start();
    holds("it has started", || path.with_file_name("starts").exists());
    put(&path, &binary("portcullis-broker"));
    for name in ["sleep-1001", "sleep-1002"] {
        launched(&service, &spool, name);
    }
    spool.wait_until_done(&agent);
    assert!(service.is_running() && service.operator().is_served());
    let log = fs::read_to_string(agent.log()).unwrap();
    assert!(log.contains("has not answered a line"), "{log}");
    assert_eq!(host.engine().calls().runs().len(), 2);
}

/// There is one, or the launcher would not have given the line to anybody.
#[test]
fn a_line_that_a_broker_denies_for_want_of_a_policy_is_given_to_the_next_one() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let path = broker(&host, "policyless");
    let agent = with_spool(&host, &spool).broker_binary(path.clone());
    spool.write("'' 1001");
    let service = agent.start();
    holds("it has started", || path.with_file_name("starts").exists());
    put(&path, &binary("portcullis-broker"));
    launched(&service, &spool, "sleep-1001");
    spool.wait_until_done(&agent);
    assert!(service.audit().of_lines(spool.dir(), "denied").is_empty());
}
