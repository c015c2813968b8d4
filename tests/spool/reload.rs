//! A reload adds and removes spools, and judges by the new policy what was taken under the old one.

use crate::{SLEEP, denied, launched, line, recorded, with_spool};
use portcullis_tests::{Host, Spool, binary, holds, launch};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// The same policy for sockets alone.
fn without_spools(policy: &str, spool: &Spool) -> String {
    let without = policy.replace(&spool.table(), "");
    without.replace("spool = true\n", "")
}

#[test]
fn a_spool_that_a_reload_adds_is_served_and_one_that_it_removes_is_left_alone() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let with = agent.policy_text();
    let without = without_spools(&with, &spool);
    agent.write_policy(&without);
    let service = agent.start();
    spool.write(&line(1001));
    let ask = |seconds: &str| {
        let reply = service.client().launch(launch("sleep", &[seconds]));
        portcullis_tests::launched(reply)
    };
    let _ = ask("2001");
    assert_eq!(spool.content(), "'' 1001\n", "nobody looks");

    agent.write_policy(&with);
    service.reload();
    launched(&service, &spool, "sleep-1001");
    spool.write(&line(1002));
    launched(&service, &spool, "sleep-1002");
    spool.wait_until_done(&agent);

    agent.write_policy(&without);
    service.reload();
    spool.write(&line(1003));
    let _ = ask("2002");
    assert_eq!(spool.content(), "'' 1003\n", "nobody looks");

    agent.write_policy(&with);
    service.reload();
    launched(&service, &spool, "sleep-1003");
}

#[test]
fn lines_that_were_taken_are_judged_by_the_policy_of_their_launch() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!(
        "\n[limits]\nlaunches = \"1/hour\"\n{SLEEP}{}",
        spool.table()
    );
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    spool.write(&line(1002));
    holds("it is taken", || spool.content().is_empty());
    assert!(agent.journal() > 0);
    let narrower = agent.policy_text();
    let narrower = narrower.replace("{seconds:int}", "{seconds:int(2000..3000)}");
    let narrower = narrower.replace("1/hour", "100/s");
    agent.write_policy(&narrower);
    service.reload();
    denied(&service, &spool, "argument", "1002");
    spool.wait_until_done(&agent);
    assert!(host.engine().calls().runs_of("sleep-1002").is_empty());
}

#[test]
fn lines_of_a_spool_that_the_policy_no_longer_has_are_denied() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = format!("\n[limits]\nlaunches = \"1/hour\"\n{SLEEP}");
    let agent = host.agent("blue", &format!("{rules}{}", spool.table()));
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    spool.write(&line(1002));
    holds("it is taken", || spool.content().is_empty());
    let without = without_spools(&agent.policy_text(), &spool);
    agent.write_policy(&without.replace("1/hour", "100/s"));
    service.reload();
    denied(&service, &spool, "peer", "1002");
    holds("it is dropped", || agent.journal() == 0);
    assert!(host.engine().calls().runs_of("sleep-1002").is_empty());
}

/// The broker of the policy before serves until the next one does. A client that it denies asks again; a line cannot.
#[test]
fn a_line_is_not_denied_by_a_broker_of_the_policy_before() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    // Every broker but the first waits until it is let go.
    let (script, go) = (host.path().join("slow-broker"), host.path().join("go"));
    let text = format!(
        "#!/bin/sh\nif ! /bin/mkdir {0} 2>/dev/null; then while [ ! -e {0}/go ]; do /bin/sleep 0.01; done; fi\n\
         exec {1} \"$@\"\n",
        go.display(),
        binary("portcullis-broker").display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let agent = with_spool(&host, &spool).broker_binary(script);
    let with = agent.policy_text();
    agent.write_policy(&with.replace("{seconds:int}", "{seconds:int(1..9)}"));
    let service = agent.start();
    spool.write(&line(5));
    launched(&service, &spool, "sleep-5");
    agent.write_policy(&with);
    service.launcher().signal(Signal::HUP);
    holds("the policy is in force", || {
        let audit = service.audit();
        !audit.with("message", "the policy was reloaded").is_empty()
    });
    spool.write(&line(1001));
    holds("it is taken", || spool.content().is_empty());
    assert!(service.operator().is_served());
    fs::write(go.join("go"), "").unwrap();
    launched(&service, &spool, "sleep-1001");
    assert!(service.audit().of_lines(spool.dir(), "denied").is_empty());
}

#[test]
fn a_line_that_a_broker_denies_by_the_policy_before_is_given_to_one_that_has_the_new_one() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let with = agent.policy_text();
    agent.write_policy(&with.replace("{seconds:int}", "{seconds:int(1..9)}"));
    let service = agent.start();
    spool.write(&line(5));
    launched(&service, &spool, "sleep-5");
    let broker = service.broker();
    broker.signal(Signal::STOP);
    spool.write(&line(1001));
    holds("it is taken", || spool.content().is_empty());
    assert!(service.operator().is_served(), "the broker has it");
    agent.write_policy(&with);
    service.launcher().signal(Signal::HUP);
    holds("the policy is in force", || {
        let audit = service.audit();
        !audit.with("message", "the policy was reloaded").is_empty()
    });
    broker.signal(Signal::CONT);
    launched(&service, &spool, "sleep-1001");
    spool.wait_until_done(&agent);
    assert!(service.audit().of_lines(spool.dir(), "denied").is_empty());
}

/// The policy may be mended in a minute; a line cannot be asked for again.
#[test]
fn while_there_is_no_usable_policy_lines_wait_where_they_are() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let good = agent.policy_text();
    agent.write_policy("version = 1\n[[launch]]\nrule = ");
    spool.write(&line(1001));
    let service = agent.start();
    assert!(service.operator().is_served());
    assert_eq!(spool.content(), "'' 1001\n");
    agent.write_policy(&good);
    service.reload();
    launched(&service, &spool, "sleep-1001");

    // And a broken reload changes nothing.
    agent.write_policy("version = 1\n[[launch]]\nrule = ");
    service.reload();
    spool.write(&line(1002));
    recorded(&service, &spool, "launched", "sleep-1002");
}
