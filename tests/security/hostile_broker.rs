//! A broker that has been taken over. It can ask for what the policy allows, and for nothing else
//! (`hostile_broker/main.rs` is that broker).

use portcullis_tests::{
    Agent, CONNECTIONS, Client, DESCRIPTORS, Door, FLOODS, FORGERIES, HOSTS, Host, LAYERS, NOISE,
    Process, SLEEP, Service, denied, holds, launch, until,
};
use portcullis_wire::{Body, Reason, Reply};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The most records of a broker's own reports: an honest one sends a report a second, with a record for each kind of denial.
const REPORTS: usize = 32;

/// A copy of it whose name says the attack.
fn broker(host: &Host, attack: &str) -> PathBuf {
    let dir = host.path().join("hostile");
    fs::create_dir_all(&dir).unwrap();
    mode(host.path(), 0o755); // it starts itself again as the broker's user
    let path = dir.join(format!("hostile-broker.{attack}"));
    fs::copy(env!("CARGO_BIN_EXE_hostile-broker"), &path).unwrap();
    path
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// How often it was started.
fn starts(broker: &Path) -> usize {
    let text = fs::read_to_string(broker.with_file_name("starts")).unwrap_or_default();
    text.lines().count()
}

/// Lets it attack in that many ways, one launcher for each; each time nothing outside the policy is run, and the
/// launcher lives.
fn survives(attack: &str, ways: usize, without: &[Door]) {
    let host = Host::new();
    let path = broker(&host, attack);
    let agent = host.agent("blue", SLEEP).older(without);
    let agent = agent.broker_binary(path.clone());
    for number in 0..ways {
        fs::write(path.with_file_name("number"), number.to_string()).unwrap();
        let mut service = agent.start();
        let mut client = agent.client();
        let id = client
            .send(Body::Launch(launch("sleep", &["5000"])))
            .unwrap();
        let launched = conclusion(&client, id);
        println!(
            "{attack} {number}: {}",
            if launched { "not heeded" } else { "cut off" }
        );
        alive(&mut service);
        nothing_but_the_allowed(&agent);
        service.kill();
    }
}

/// Waits for the allowed request's answer, or the connection's end: a launcher may cut off a broker that talks nonsense.
/// What is answered before is the launcher's word about the forgeries.
fn conclusion(client: &Client, id: u64) -> bool {
    loop {
        match client.receive().unwrap() {
            None => return false,
            Some(response) => match response.reply {
                Reply::Launched { name, .. } => {
                    assert_eq!((response.id, name.as_str()), (id, "sleep-5000"));
                    return true;
                }
                Reply::Denied { .. } | Reply::Failed(_) | Reply::Busy { .. } => {}
                other => panic!("{other:?}"),
            },
        }
    }
}

#[track_caller]
fn alive(service: &mut Service) {
    assert!(service.is_running());
    assert!(service.operator().is_served(), "the operator is answered");
}

#[track_caller]
fn nothing_but_the_allowed(agent: &Agent) {
    let engine = agent.host().engine();
    let calls = engine.calls();
    assert!(calls.runs().len() <= 1, "{calls:?}");
    for run in calls.runs() {
        assert_eq!(run.values("--name"), ["sleep-5000"]);
        assert_eq!(run.operands().last().map(String::as_str), Some("5000"));
    }
    for call in calls.all() {
        for word in &call.arguments {
            assert!(
                !word.contains("66601") && !word.contains("--privileged"),
                "{call:?}"
            );
        }
    }
    assert!(engine.containers().iter().all(|c| c.name == "sleep-5000"));
    for record in agent.audit().lines() {
        assert!(record.is_object(), "one line, one record: {record}");
        assert_ne!(record["rule"], "forged");
    }
    let reported = agent.audit().with("by", "broker").len();
    assert!(reported <= REPORTS, "{reported} records of its reports");
}

/// It attacks and does not go: it is ended, another one is started, and meanwhile the operator is answered.
#[track_caller]
fn is_replaced(attack: &str) {
    let host = Host::new();
    let path = broker(&host, attack);
    let agent = host.agent("blue", SLEEP).broker_binary(path.clone());
    let mut service = agent.start();
    let first = until("a broker", || {
        let mut children = service.launcher().children().into_iter();
        children.find(|child| child.arguments().contains(&"--attack".into()))
    });
    let mut client = agent.client();
    let id = client
        .send(Body::Launch(launch("sleep", &["5000"])))
        .unwrap();
    assert!(!conclusion(&client, id), "the connection ends with it");
    alive(&mut service);
    holds("it is ended", || !first.is_alive());
    holds("another one is started", || starts(&path) >= 2);
    alive(&mut service);
    nothing_but_the_allowed(&agent);
}

/// Asks for what the policy allows, by that connection; a broker that forwards whatever comes makes no difference.
#[track_caller]
fn is_refused(agent: &Agent, client: &mut Client) {
    let reply = client.launch(launch("sleep", &["5000"]));
    assert_eq!(denied(reply), Reason::Peer);
    assert!(agent.host().engine().calls().runs().is_empty());
}

#[test]
fn a_broker_that_sends_what_is_no_order_gets_nothing_and_the_launcher_lives() {
    survives("noise", NOISE, &[]);
}

#[test]
fn a_broker_that_sends_wrong_descriptors_gets_nothing_and_the_launcher_lives() {
    for without in HOSTS {
        survives("descriptors", DESCRIPTORS, without);
    }
}

/// A broker names connections, and cannot name one that it was not handed, or has closed.
#[test]
fn broker_answers_for_its_own_connections_alone() {
    for without in HOSTS {
        survives("connections", CONNECTIONS, without);
    }
}

/// It was handed a connection, and does nothing more: neither for the client nor for its launcher.
#[test]
fn frozen_broker_is_replaced() {
    let host = Host::new();
    let path = broker(&host, "frozen");
    let agent = host.agent("blue", SLEEP).broker_binary(path.clone());
    let mut service = agent.start();
    let client = agent.client();
    holds("it is started", || starts(&path) >= 1);
    let honest = portcullis_tests::binary("portcullis-broker");
    let replace = path.with_extension("new");
    fs::copy(honest, &replace).unwrap();
    fs::rename(&replace, &path).unwrap();
    assert_eq!(client.receive().unwrap(), None, "its connection ends");
    holds("another one serves", || agent.client().is_served());
    alive(&mut service);
}

/// An agent can fill the link of an honest broker, too.
#[test]
fn full_link_hides_no_denial() {
    let host = Host::new();
    let path = broker(&host, "overflow");
    let agent = host.agent("blue", SLEEP).broker_binary(path);
    let _service = agent.start();
    let mut client = agent.client();
    let _ = client.launch(launch("sleep", &["5000"]));
    assert_eq!(agent.audit().with("reason", "no-rule").len(), 1);
}

#[test]
fn invariant_3_a_broker_that_forges_requests_gets_nothing_that_the_policy_does_not_allow() {
    for without in HOSTS {
        survives("forgery", FORGERIES, without);
    }
}

#[test]
fn invariant_3_a_client_of_a_user_that_the_policy_does_not_admit_is_refused_whatever_is_forwarded()
{
    for without in HOSTS {
        let host = Host::new();
        let agent = host
            .agent("blue", SLEEP)
            .older(without)
            .broker_binary(broker(&host, "forward"));
        let _service = agent.start();
        mode(&agent.socket(), 0o777);
        let mut client = Client::connect_as(12345, &agent.socket()).unwrap();
        is_refused(&agent, &mut client);
        let records = agent.audit();
        assert_eq!(records.with("reason", "peer")[0]["peer_uid"], 12345);
    }
}

#[test]
fn invariant_3_a_client_that_has_ended_is_refused_though_another_process_holds_its_connection() {
    for (reaped, without) in [true, false]
        .into_iter()
        .flat_map(|r| HOSTS.map(|w| (r, w)))
    {
        let host = Host::new();
        let agent = host
            .agent("blue", SLEEP)
            .older(without)
            .broker_binary(broker(&host, "forward"));
        let _service = agent.start();
        let (mut client, mut child) = Client::connect_by_child(&agent.socket()).unwrap();
        if reaped {
            assert!(child.wait().unwrap().success());
        }
        holds("the child has ended", || {
            Process::find(child.id().try_into().unwrap()).is_none()
        });
        is_refused(&agent, &mut client);
        let _ = child.wait();
    }
}

#[test]
fn a_broker_that_sends_an_empty_datagram_is_ended_and_replaced() {
    is_replaced("empty");
}

#[test]
fn a_broker_that_closes_its_link_and_lives_on_is_ended_and_replaced() {
    is_replaced("close-link-and-sleep");
}

/// Each line of what the service manager is told is an assignment, and `MAINPID=` would be obeyed.
#[test]
fn what_a_broker_calls_its_layers_tells_the_service_manager_nothing() {
    let host = Host::new();
    let path = broker(&host, "layers");
    let agent = host.agent("blue", SLEEP).broker_binary(path.clone());
    for number in 0..LAYERS {
        fs::write(path.with_file_name("number"), number.to_string()).unwrap();
        let _ = fs::remove_file(path.with_file_name("starts"));
        let mut service = agent.start();
        let mut said = Vec::new();
        holds("its layers are heard", || {
            said.extend(service.notifications());
            starts(&path) >= 2 || said.iter().any(|words| words.contains("READY=1"))
        });
        alive(&mut service);
        said.extend(service.notifications());
        for words in &said {
            assert!(words.len() < 4096, "{} bytes", words.len());
            for line in words.lines() {
                let ours = ["READY=1", "STATUS=", "WATCHDOG=1"];
                assert!(ours.iter().any(|ours| line.starts_with(ours)), "{words:?}");
            }
        }
        nothing_but_the_allowed(&agent);
        service.kill();
    }
}

#[test]
fn a_broker_that_sends_a_request_again_and_again_gets_one_container() {
    survives("replay", 1, &[]);
}

#[test]
fn a_broker_that_floods_the_link_with_reports_gets_nothing_and_the_launcher_lives() {
    survives("flood", FLOODS, &[]);
}

/// Each would be a word to the service manager, whose socket fills up: nobody reads it here.
#[test]
fn a_broker_that_says_ready_again_and_again_does_not_stop_the_launcher() {
    survives("ready", 1, &[]);
}

#[test]
fn descriptors_from_a_hostile_broker_do_not_pile_up_in_the_launcher() {
    for without in HOSTS {
        let host = Host::new();
        let path = broker(&host, "descriptors");
        fs::write(path.with_file_name("number"), "2").unwrap(); // sixteen at once
        let agent = host.agent("blue", SLEEP).older(without);
        let agent = agent.broker_binary(path);
        let service = agent.start();
        assert!(service.operator().is_served());
        let before = service.launcher().descriptors().len();
        for _ in 0..4 {
            let mut client = agent.client();
            let id = client
                .send(Body::Launch(launch("sleep", &["5000"])))
                .unwrap();
            // Not cut off where the kernel does not let it send any.
            if conclusion(&client, id) {
                break;
            }
        }
        holds("the count is what it was, and one pidfd", || {
            service.launcher().descriptors().len() <= before + 2
        });
    }
}

#[test]
fn a_broker_that_dies_at_once_is_started_again_with_pauses_that_grow() {
    let host = Host::new();
    let path = broker(&host, "crash");
    let agent = host.agent("blue", SLEEP).broker_binary(path.clone());
    let begin = std::time::Instant::now();
    let mut service = agent.start();
    holds("it is started again", || starts(&path) >= 4);
    assert!(begin.elapsed().as_millis() > 300, "not as fast as it dies");
    alive(&mut service);
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn a_broker_that_never_says_ready_does_not_stop_the_launcher() {
    let host = Host::new();
    let path = broker(&host, "silent");
    let agent = host.agent("blue", SLEEP).broker_binary(path);
    let mut service = agent.start();
    alive(&mut service);
    assert!(service.stop().success(), "it ends when it is told to");
}
