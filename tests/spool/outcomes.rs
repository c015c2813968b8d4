//! What becomes of a line: launched, denied and dropped, tried again and given up, or superseded.

use crate::{SLEEP, denied, launched, line, recorded, with_spool};
use portcullis_tests::{Host, Netns, Service, Spool, holds, launch};
use portcullis_wire::Body;
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

/// Ends at once until the file `go` is there.
pub(crate) const FLAKY: &str = r#"
[[launch]]
rule = "flaky"
command = "flaky"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "test -e /shared/go && sleep 1000; exit 7", "flaky"]
args = [{ min = 1, pattern = "{word:word}" }, { max = 1, pattern = "--again" }]
[launch.container]
name = "flaky-{word}"
user = "0:0"
mounts = [{ source = "{shared}", target = "/shared", mode = "ro" }]
ready = { pid_file = "/shared/pid", timeout = "30s" }
"#;

/// A namespace's helper, whose program gets its namespace from the line.
const SIDE: &str = r#"
[[launch]]
rule = "side"
command = "side"
spool = true
netns = "pct-{network:uuid}"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "side-{network}"
user = "0:0"
"#;

/// How often a line is tried at most.
const TRIES: usize = 6;

#[test]
fn a_denied_line_is_dropped_with_a_record_of_the_same_kind_as_a_datagrams() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write("'' --privileged");
    let record = denied(&service, &spool, "argument", "--privileged");
    assert_eq!(record["agent"], "blue");
    assert_eq!(record["command"], "sleep");
    assert_eq!(record["args"], "'--privileged'");
    assert_eq!(record["rule"], "sleep");
    assert!(record["generation"].is_string());
    // Nobody stands behind it that the kernel knows.
    assert!(record["peer_uid"].is_null() && record["peer_pid"].is_null());
    spool.wait_until_done(&agent);
    assert!(host.engine().calls().runs().is_empty());
    // Nor is it tried again.
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    assert_eq!(service.audit().of_lines(spool.dir(), "denied").len(), 1);
}

#[test]
fn a_launched_line_has_a_record_of_the_same_kind_as_a_datagrams() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write(&line(1001));
    let record = recorded(&service, &spool, "launched", "sleep-1001");
    let container = host.engine().container("sleep-1001");
    assert_eq!(record["container"], container.id.as_str());
    assert_eq!(record["pid"], container.pid);
    assert_eq!(record["args"], "'1001'");
    assert_eq!(record["image_id"], host.engine().image_id());
    // A line again is no second container.
    spool.write(&line(1001));
    recorded(&service, &spool, "reused", "sleep-1001");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().containers().len(), 1);
}

#[test]
fn a_line_whose_namespace_is_gone_is_dropped_and_one_whose_namespace_is_there_is_launched_in_it() {
    let host = Host::new();
    let spool = Spool::new(&host, "side");
    let agent = host.agent("blue", &format!("{SIDE}{}", spool.table()));
    let (gone, there) = (Netns::new(), Netns::new());
    spool.append(format!("{}\n{}\n", gone.name(), there.name()).as_bytes());
    gone.delete();
    let service = agent.start();
    denied(&service, &spool, "netns", gone.name());
    let name = format!("side-{}", there.uuid());
    launched(&service, &spool, &name);
    spool.wait_until_done(&agent);
    let process = host.engine().container(&name).process();
    let inode = fs::read_link(process.file("ns/net")).unwrap();
    assert_eq!(inode.to_string_lossy(), format!("net:[{}]", there.inode()));
    assert_eq!(host.engine().containers().len(), 1);
}

fn runs(host: &Host, name: &str) -> usize {
    host.engine().calls().runs_of(name).len()
}

#[test]
fn a_line_that_fails_is_tried_again_with_growing_pauses_and_then_given_up() {
    let host = Host::new();
    let spool = Spool::new(&host, "flaky");
    let agent = host.agent("blue", &format!("{FLAKY}{}", spool.table()));
    let service = agent.start();
    spool.write("'' a");
    for tries in 1..=TRIES {
        holds("it is tried", || runs(&host, "flaky-a") >= tries);
        assert_eq!(spool.content(), "");
        if tries == 2 {
            assert!(agent.journal() > 0, "it is not forgotten");
            assert!(service.operator().is_served() && service.client().is_served());
        }
    }
    recorded(&service, &spool, "given-up", "flaky-a");
    spool.wait_until_done(&agent);
    assert_eq!(runs(&host, "flaky-a"), TRIES);
    let audit = service.audit();
    let failed = audit.of_lines(spool.dir(), "failed");
    assert_eq!(failed.len(), TRIES);
    for record in &failed {
        assert_eq!(record["reason"], "exited", "{record}");
    }
    // 1, 2, 4, 8 and 16 s, each beginning when the try before has failed, a moment before that is on record.
    for (n, pair) in failed.windows(2).enumerate() {
        let pause = pause_between(pair[0], pair[1]);
        let least = Duration::from_secs(1 << n);
        assert!(
            pause + Duration::from_millis(100) >= least,
            "{n}: {pause:?}, {failed:?}"
        );
        let most = least * 2 + Duration::from_secs(2);
        assert!(pause < most, "{n}: {pause:?}, {failed:?}");
    }
    assert!(host.engine().containers().is_empty());
}

/// From the end of one try to the beginning of the next, as their records say: a record is written when a try has ended.
fn pause_between(one: &Value, next: &Value) -> Duration {
    const DAY: u64 = 24 * 3600 * 1_000_000;
    let micros = |record: &Value| -> u64 {
        // 2026-01-02T03:04:05.678901Z
        let text = record["timestamp"].as_str().unwrap();
        let (_, time) = text.trim_end_matches('Z').split_once('T').unwrap();
        let digits = time.replace([':', '.'], "");
        let number: u64 = digits.parse().unwrap();
        let (hours, minutes) = (number / 10_000_000_000, number / 100_000_000 % 100);
        (hours * 60 + minutes) * 60_000_000 + number % 100_000_000
    };
    let began = micros(next) + DAY - next["total_us"].as_u64().unwrap();
    Duration::from_micros((began - micros(one)) % DAY)
}

#[test]
fn a_line_that_fails_at_first_is_launched_when_it_can_be_even_by_the_next_launcher() {
    let host = Host::new();
    let spool = Spool::new(&host, "flaky");
    let rules = format!("{TWO_TRIES}{FLAKY}{}", spool.table());
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    fails_at_first(&host, &service, &spool, 2);
    service.kill();
    let service = agent.start();
    launched(&service, &spool, "flaky-a");
    spool.wait_until_done(&agent);
}

/// With that, lines have used up their half of the rate with two tries: a third one is a long time away.
const TWO_TRIES: &str = "\n[limits]\nlaunches = \"4/hour\"\n";

/// Writes a line, and waits until it has failed so often. Then nothing would fail any more.
#[track_caller]
fn fails_at_first(host: &Host, service: &Service, spool: &Spool, times: usize) {
    spool.write("'' a");
    holds("it has failed so often", || {
        service.audit().of_lines(spool.dir(), "failed").len() >= times
    });
    fs::write(host.shared().join("pid"), "1").unwrap();
    fs::write(host.shared().join("go"), "").unwrap();
}

#[test]
fn a_newer_line_of_the_same_name_supersedes_one_that_waits() {
    let host = Host::new();
    let spool = Spool::new(&host, "flaky");
    let agent = host.agent("blue", &format!("{FLAKY}{}", spool.table()));
    let service = agent.start();
    // Its next try is eight seconds away.
    fails_at_first(&host, &service, &spool, 4);
    spool.write("'' a --again");
    let old = recorded(&service, &spool, "superseded", "flaky-a");
    assert_eq!(old["args"], "'a'");
    let new = recorded(&service, &spool, "launched", "flaky-a");
    assert_eq!(new["args"], "'a' '--again'");
    spool.wait_until_done(&agent);
}

#[test]
fn a_datagram_of_the_same_name_supersedes_a_line_that_waits() {
    let host = Host::new();
    let spool = Spool::new(&host, "flaky");
    let rules = format!("{TWO_TRIES}{FLAKY}{}", spool.table());
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    fails_at_first(&host, &service, &spool, 2);
    let request = launch("flaky", &["a", "--again"]);
    let answer = service.client().launch_patiently(&request);
    let answer = portcullis_tests::launched(answer);
    recorded(&service, &spool, "superseded", "flaky-a");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().container("flaky-a").id, answer.container);
}

/// Fifty lines of one name are one launch: what the last one says.
#[test]
fn of_lines_of_one_name_that_are_taken_together_the_last_one_is_what_runs() {
    let host = Host::new();
    let spool = Spool::new(&host, "word");
    let rule = r#"
[[launch]]
rule = "word"
command = "word"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "word"]
args = [{ min = 1, pattern = "{:int}" }]
[launch.container]
name = "word"
user = "0:0"
"#;
    let agent = host.agent("blue", &format!("{rule}{}", spool.table()));
    let lines: Vec<_> = (0..50).map(line).collect();
    spool.append(format!("{}\n", lines.join("\n")).as_bytes());
    let service = agent.start();
    spool.wait_until_done(&agent);
    let process = host.engine().container("word").process();
    assert_eq!(process.arguments()[4..], ["49"]);
    let of = |verdict| service.audit().of_lines(spool.dir(), verdict).len();
    assert_eq!(of("launched") + of("superseded"), 50, "none without a word");
    assert!(of("superseded") >= 40, "{}", of("superseded"));
}

/// Busy, as when another launch of the name is under way, is no failure and is not counted, nor is a try a launch.
#[test]
fn a_line_that_comes_while_its_name_is_being_launched_otherwise_is_launched_after_it() {
    let host = Host::new();
    let spool = Spool::new(&host, "flaky");
    let rule = FLAKY.replace("ready = ", "#");
    let limits = "\n[limits]\nlaunches = \"4/hour\"\n";
    let agent = host.agent("blue", &format!("{limits}{rule}{}", spool.table()));
    fs::write(host.shared().join("go"), "").unwrap();
    let service = agent.start();
    host.engine().hang("run", "");
    let mut client = service.client();
    client.send(Body::Launch(launch("flaky", &["a"]))).unwrap();
    holds("podman is called", || runs(&host, "flaky-a") == 1);
    spool.write("'' a --again");
    holds("it is taken", || spool.content().is_empty());
    let begin = Instant::now();
    holds("longer than any pause between tries", || {
        begin.elapsed() > Duration::from_secs(2)
    });
    host.engine().release("run");
    let first = portcullis_tests::launched(client.reply().reply);
    recorded(&service, &spool, "launched", "flaky-a");
    spool.wait_until_done(&agent);
    let second = host.engine().container("flaky-a");
    assert_ne!(first.container, second.id, "replaced, as the rule says");
    // With pauses that grow to five seconds.
    let busy = service.audit().of_lines(spool.dir(), "busy").len();
    assert!((1..60).contains(&busy), "{busy}");
    assert!(service.audit().of_lines(spool.dir(), "failed").is_empty());
}

#[test]
fn a_line_is_denied_when_there_is_no_image_and_the_name_of_somebody_elses_container_is_left_alone()
{
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let rules = SLEEP.replace("portcullis-test:1", "portcullis-test:2");
    let agent = host.agent("blue", &format!("{rules}{}", spool.table()));
    let service = agent.start();
    spool.write(&line(1001));
    denied(&service, &spool, "image", "1001");
    spool.wait_until_done(&agent);

    agent.write_policy(
        &agent
            .policy_text()
            .replace("portcullis-test:2", "portcullis-test:1"),
    );
    service.reload();
    let fixed = ["run", "--detach", "--name=sleep-1002", "--network=none"];
    host.engine()
        .must(&[&fixed[..], &[portcullis_tests::IMAGE, "/bin/sleep", "5000"]].concat());
    let foreign = host.engine().container("sleep-1002");
    spool.write(&line(1002));
    denied(&service, &spool, "name", "1002");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().container("sleep-1002").id, foreign.id);
}
