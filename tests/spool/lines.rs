//! What a line may be: everything that is no whole, readable line is denied, and what stands around it is launched.

use crate::{denied, launched, line, names, with_spool};
use portcullis_tests::{Host, Spool, Stop, holds};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes of lines that are taken at once.
const FILE: usize = 16 << 20;

/// Denied whatever the policy says, and the lines before and after it launched.
#[track_caller]
fn is_denied_alone(reason: &str, bad: &[u8]) {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.append(&[b"'' 1001\n", bad, b"\n'' 1002\n"].concat());
    spool.touch();
    launched(&service, &spool, "sleep-1001");
    denied(&service, &spool, reason, "");
    launched(&service, &spool, "sleep-1002");
    spool.wait_until_done(&agent);
    let runs = host.engine().calls();
    assert_eq!(runs.runs().len(), 2, "{runs:?}");
    assert_eq!(service.audit().of_lines(spool.dir(), "denied").len(), 1);
}

#[test]
fn half_a_line_is_never_launched_and_a_whole_one_before_it_is() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    // `1002` may have been `10020` once.
    spool.append(b"'' 1001\n'' 1002");
    spool.touch();
    launched(&service, &spool, "sleep-1001");
    denied(&service, &spool, "malformed", "no end");
    spool.wait_until_done(&agent);
    // What comes after it is not glued to it.
    spool.write(&line(1003));
    launched(&service, &spool, "sleep-1003");
    spool.wait_until_done(&agent);
    assert_eq!(
        names(&service.audit(), &spool),
        ["sleep-1001", "sleep-1003"]
    );
    assert!(host.engine().calls().runs_of("sleep-1002").is_empty());
}

#[test]
fn a_line_of_a_megabyte_is_too_large_and_those_around_it_are_launched() {
    is_denied_alone("too-large", &[b'1'; 1 << 20]);
}

#[test]
fn a_line_with_an_unmatched_quote_is_malformed_and_those_around_it_are_launched() {
    is_denied_alone("malformed", b"'' '1003");
    is_denied_alone("malformed", b"'' \"1003");
    is_denied_alone("malformed", b"'' 1003\\");
}

#[test]
fn a_line_with_a_nul_is_malformed_and_those_around_it_are_launched() {
    is_denied_alone("malformed", b"'' 1003\0");
}

#[test]
fn a_line_that_is_not_utf_8_is_malformed_and_those_around_it_are_launched() {
    is_denied_alone("malformed", b"'' 1003\xff");
}

#[test]
fn more_words_than_a_request_may_have_are_too_large_and_the_lines_around_them_are_launched() {
    is_denied_alone("too-large", "'' ".repeat(2000).as_bytes());
}

#[test]
fn of_a_file_of_20_megabytes_what_is_over_is_too_large_and_the_next_lines_are_launched() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    assert!(service.client().is_served());
    let before = service.launcher().resident();
    let filler = format!("'' {}\n", "x".repeat(60_000));
    let count = (FILE + (4 << 20)) / filler.len();
    spool.append(format!("{}\n{}", line(1001), filler.repeat(count)).as_bytes());
    spool.write(&line(1002));
    launched(&service, &spool, "sleep-1001");
    denied(&service, &spool, "too-large", "");
    spool.wait_until_done(&agent);
    assert!(service.launcher().resident() < before + 3 * (FILE as u64));
    spool.write(&line(1003));
    launched(&service, &spool, "sleep-1003");
}

#[test]
fn empty_lines_are_nothing() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.append(b"\n\n'' 1001\n\n");
    spool.touch();
    launched(&service, &spool, "sleep-1001");
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().calls().runs().len(), 1);
}

/// What `echo "$NETNS $ARGS"` writes outside of a named namespace.
#[test]
fn a_line_that_begins_with_a_blank_has_no_namespace() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let service = agent.start();
    spool.write(" 1001");
    launched(&service, &spool, "sleep-1001");
}

#[test]
fn every_word_of_our_client_arrives_as_it_is_and_nothing_is_expanded() {
    const ECHO: &str = r#"
[[launch]]
rule = "echo"
command = "echo"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "echo"]
args = [{ max = 32, pattern = "{:text}" }, { max = 1, pattern = "" }, { max = 1, pattern = "--{:text}" }]
[launch.container]
name = "echo"
user = "0:0"
"#;
    let words = [
        "a b",
        "'",
        "\"",
        "\\",
        "*",
        "?",
        "[a-z]",
        "~",
        "$HOME",
        "$(id)",
        "`id`",
        "#",
        ";",
        "&&",
        "a'b\"c\\d",
        "é",
        "",
        "!",
        "{a,b}",
        "<",
        ">",
        "|",
        "%s",
        "a  b",
        "--x=y z",
    ];
    let host = Host::new();
    let spool = Spool::new(&host, "echo");
    let agent = host.agent("blue", &format!("{ECHO}{}", spool.table()));
    let service = agent.start();
    let done = spool.client().arg("echo").args(words).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    launched(&service, &spool, "echo");
    let process = host.engine().container("echo").process();
    assert_eq!(process.arguments()[4..], words);
}

/// The writer overwrites lines in place, without the lock, while they are read: none of its lines is allowed, and no mix
/// of two is. Those of an honest writer, who writes again what the other has destroyed, are launched.
#[test]
fn lines_that_are_rewritten_while_they_are_read_launch_nothing_that_was_never_whole() {
    const RULE: &str = r#"
[[launch]]
rule = "sleep"
command = "sleep"
spool = true
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }, "go"]
[launch.container]
name = "sleep-{seconds}"
user = "0:0"
"#;
    let honest = |seconds: usize| format!("'' {seconds} go");
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = host.agent("blue", &format!("{RULE}{}", spool.table()));
    let mut service = agent.start();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Stop::at(&end);
        scope.spawn(|| {
            let mut round = 0_usize;
            while !end.load(Relaxed) {
                // Not more than are looked at: the others' lines would stand behind his.
                if agent.journal() < 4096 {
                    round += 1;
                    rewrite(&spool, round);
                    spool.touch();
                    // Or what the honest one writes might be destroyed each time before it is read.
                    if round.is_multiple_of(64) {
                        thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        });
        for seconds in 1001..1011 {
            let name = format!("sleep-{seconds}");
            let mut again = Instant::now();
            holds(&name, || {
                if again <= Instant::now() {
                    spool.write(&honest(seconds));
                    again = Instant::now() + Duration::from_millis(500);
                }
                names(&service.audit(), &spool).contains(&name)
            });
        }
    });
    spool.wait_until_done(&agent);
    assert!(service.is_running() && service.operator().is_served());
    let calls = host.engine().calls();
    for run in calls.runs() {
        let seconds = run.values("--name")[0].trim_start_matches("sleep-");
        assert!((1001..1011).contains(&seconds.parse().unwrap()), "{run:?}");
    }
    let denied = service.audit().of_lines(spool.dir(), "denied").len();
    assert!(denied > 10, "the other was heard {denied} times");
}

/// Lines of which a part would be allowed, each over what stands there, and half of one at the end.
fn rewrite(spool: &Spool, round: usize) {
    let file = OpenOptions::new().write(true).open(spool.processes());
    let Ok(file) = file else { return };
    let text = ["'' 7771 x\n", "'' 8882 y\n"][round % 2];
    for at in 0..20 {
        let _ = file.write_at(text.as_bytes(), at * text.len() as u64);
    }
    if round.is_multiple_of(7) {
        let _ = file.set_len(17);
    }
}
