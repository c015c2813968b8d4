//! How the pair is started: with an inherited listener as from systemd, or from a shell.

use portcullis_tests::{Host, Process, SLEEP, binary, holds, launch, launched};
use portcullis_wire::Body;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_request_that_was_sent_before_the_pair_started_is_answered() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let mut client = agent.client();
    client
        .send(Body::Launch(launch("sleep", &["1000"])))
        .unwrap();
    let _service = agent.start();
    let _ = launched(client.reply().reply);
}

#[test]
fn the_socket_stays_through_idle_exits_and_restarts() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP).option("--idle-exit", "1s");
    for _ in 0..3 {
        let mut client = agent.client();
        client.send(Body::Ping).unwrap();
        let service = agent.start();
        assert!(matches!(
            client.reply().reply,
            portcullis_wire::Reply::Pong(_)
        ));
        drop(client);
        assert!(service.wait().success());
    }
}

#[test]
fn from_a_shell_it_binds_the_socket_itself_and_takes_the_place_of_a_dead_one() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start_listening();
    let _ = launched(service.client().launch(launch("sleep", &["1000"])));
    service.kill();
    assert!(agent.socket().exists(), "left by the killed one");
    let service = agent.start_listening();
    assert!(launched(service.client().launch(launch("sleep", &["1000"]))).reused);
}

#[test]
fn it_tells_the_service_manager_when_it_is_ready() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    service.wait_for_notification("READY=1");
    assert!(service.client().is_served());
    service.launcher().signal(rustix::process::Signal::HUP);
    service.wait_for_notification("RELOADING=1");
    service.wait_for_notification("READY=1");
}

#[test]
fn there_is_one_launcher_for_an_agent() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let mut first = agent.start();
    assert!(first.operator().is_served());
    let second = agent.start();
    assert!(!second.wait().success());
    assert!(first.is_running() && first.client().is_served());
}

#[test]
fn the_launchers_directories_are_for_root_alone() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let _ = launched(service.client().launch(launch("sleep", &["1000"])));
    assert!(service.operator().is_served());
    for directory in [agent.private(), agent.state()] {
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
    }
    // The agent's own directory has the socket in it and nothing else.
    let entries = fs::read_dir(agent.socket().parent().unwrap()).unwrap();
    let names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["broker.sock"]);
}

#[test]
fn a_broker_that_dies_is_started_again_and_side_containers_live_on() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("sleep", &["1000"])));
    for _ in 0..3 {
        let broker = service.broker();
        broker.signal(rustix::process::Signal::KILL);
        holds("it is gone", || !broker.is_alive());
        assert!(service.client().is_served());
    }
    assert!(Process::find(answer.pid).is_some());
    assert!(launched(service.client().launch(launch("sleep", &["1000"]))).reused);
}

/// A broker that is told to drain by one that was started before it would leave nobody to serve.
#[test]
fn a_reload_while_the_first_broker_still_starts_ends_with_the_new_one_serving() {
    let host = Host::new();
    let dir = host.path().join("starts");
    fs::create_dir(&dir).unwrap();
    // Each start of it makes the next number's directory, and waits there until it is let go.
    let script = host.path().join("slow-broker");
    let text = format!(
        "#!/bin/sh\nn=1\nwhile ! /bin/mkdir {dir}/$n 2>/dev/null; do n=$((n + 1)); done\n\
         while [ ! -e {dir}/$n/go ]; do /bin/sleep 0.01; done\nexec {broker} \"$@\"\n",
        dir = dir.display(),
        broker = binary("portcullis-broker").display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let agent = host.agent("blue", SLEEP).broker_binary(script);
    let service = agent.start();
    let serving = || service.audit().with("message", "the broker serves").len();

    holds("the first starts", || dir.join("1").exists());
    service.launcher().signal(rustix::process::Signal::HUP);
    holds("the second starts", || dir.join("2").exists());
    fs::write(dir.join("1/go"), "").unwrap();
    holds("the first serves", || serving() == 1);
    fs::write(dir.join("2/go"), "").unwrap();
    holds("the second serves", || serving() == 2);
    service.wait_for_notification("RELOADING=1");
    service.wait_for_notification("READY=1");
    assert!(service.client().is_served());
    assert!(!dir.join("3").exists(), "no broker was started in vain");
}

#[test]
fn a_broker_that_never_starts_is_told_to_clients_and_to_systemd_until_it_does() {
    let host = Host::new();
    let script = host.path().join("broker");
    let write = |text: &str| {
        let new = host.path().join("new-broker");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        fs::rename(new, &script).unwrap();
    };
    write("#!/bin/sh\necho 'no Landlock on this kernel' >&2\nexit 1\n");
    let agent = host.agent("blue", SLEEP).broker_binary(script.clone());
    let service = agent.start();
    service.wait_for_notification("READY=1");
    // As the real client asks: it does not wait until it has lost its patience.
    let ask = || {
        let mut client = std::process::Command::new(binary("portcullis"));
        client.arg("--socket").arg(agent.socket());
        client.args(["run", "--timeout=30", "sleep", "1000"]);
        let done = client.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), said)
    };
    let (code, said) = ask();
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("cannot start its broker"), "{said}");
    assert!(service.operator().is_served());
    assert!(host.engine().calls().runs().is_empty());

    let broker = binary("portcullis-broker");
    write(&format!("#!/bin/sh\nexec {} \"$@\"\n", broker.display()));
    holds("it is served", || ask().0 == Some(0));
}
