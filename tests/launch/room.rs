//! The host's own limit: what all its agents may have at once.

use portcullis_tests::{Host, denied, failed, holds, launch, launched};
use portcullis_wire::{Reason, Reply};
use rustix::process::Signal;

fn rule(agent: &str) -> String {
    format!(
        r#"
[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{{ min = 1, pattern = "{{seconds:int}}" }}]
[launch.container]
name = "{agent}-{{seconds}}"
user = "0:0"
"#
    )
}

/// The message of the denial, which it must be.
#[track_caller]
fn no_room(reply: Reply) -> String {
    match reply {
        Reply::Denied {
            reason: Reason::LimitRunning,
            message,
            ..
        } => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_agents_of_a_host_together_have_no_more_side_containers_than_the_host_allows() {
    let host = Host::new();
    let blue = host.agent("blue", &rule("blue")).engine("containers = 3");
    let green = host.agent("green", &rule("green")).engine("containers = 3");
    let services = [blue.start(), green.start()];
    let [mut blue_client, mut green_client] = services.each_ref().map(|s| s.client());
    let first = launched(blue_client.launch(launch("sleep", &["1001"])));
    let _ = launched(blue_client.launch(launch("sleep", &["1002"])));
    let _ = launched(green_client.launch(launch("sleep", &["1003"])));
    let message = no_room(green_client.launch(launch("sleep", &["1004"])));
    assert!(message.contains("[engine] containers = 3"), "{message}");
    let _ = no_room(blue_client.launch(launch("sleep", &["1004"])));
    // A repeat needs no room.
    assert!(launched(green_client.launch(launch("sleep", &["1003"]))).reused);
    assert_eq!(host.engine().containers().len(), 3);
    // What was refused has left nothing that counts.
    first.process().signal(Signal::KILL);
    holds("there is room for another agent", || {
        match green_client.launch(launch("sleep", &["1004"])) {
            Reply::Launched { .. } => true,
            Reply::Busy { .. } => false,
            other => {
                // To ask that often is more than the rate allows, too, in the long run.
                let reasons = [Reason::LimitRunning, Reason::LimitRate];
                assert!(reasons.contains(&denied(other)));
                false
            }
        }
    });
    let _ = no_room(blue_client.launch(launch("sleep", &["1005"])));
}

#[test]
fn agents_that_launch_at_the_same_moment_do_not_exceed_what_the_host_allows() {
    let host = Host::new();
    let agents = ["blue", "green"].map(|name| {
        let agent = host.agent(name, &rule(name));
        agent.engine("containers = 4").engine("workers = 4")
    });
    let services = agents.each_ref().map(|agent| agent.start());
    std::thread::scope(|scope| {
        for service in services.iter().cycle().take(8).enumerate() {
            scope.spawn(move || {
                let (number, service) = service;
                let number = (1000 + number).to_string();
                match service
                    .client()
                    .launch_patiently(&launch("sleep", &[&number]))
                {
                    Reply::Launched { .. } => {}
                    other => drop(no_room(other)),
                }
            });
        }
    });
    assert!(host.engine().containers().len() <= 4);
}

#[test]
fn a_host_whose_launch_records_cannot_be_counted_launches_nothing() {
    let host = Host::new();
    let agent = host.agent("blue", &rule("blue"));
    let service = agent.start();
    assert!(service.client().is_served());
    // A name that leads in circles is no directory and no file.
    let records = host.path().join("state/green/records");
    std::fs::create_dir_all(records.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("records", &records).unwrap();
    let failure = failed(service.client().launch(launch("sleep", &["1000"])));
    assert_eq!(failure.reason, Reason::Internal);
    std::fs::remove_file(&records).unwrap();
    let _ = launched(service.client().launch(launch("sleep", &["1000"])));
}
