//! A full disk: a line is in the file or in the journal, and never in neither.

use crate::{complained, launched, line, with_spool};
use portcullis_tests::{Host, Spool, holds};
use rustix::mount::{MountFlags, mount};
use std::fs;

#[test]
fn lines_that_do_not_fit_into_the_journal_stay_in_the_file_until_there_is_room() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    let state = agent.state();
    mount("tmpfs", &state, "tmpfs", MountFlags::empty(), c"size=256k").unwrap();
    let service = agent.start();
    spool.write(&line(1001));
    launched(&service, &spool, "sleep-1001");
    spool.wait_until_done(&agent);
    let filler = state.join("filler");
    assert!(fs::write(&filler, vec![0; 1 << 20]).is_err(), "it is full");

    // More than what may be left of the last page of a file.
    let lines: Vec<_> = (1002..1005).map(line).collect();
    let denied = format!("'' {}\n", "x".repeat(20_000));
    let text = format!("{}\n{denied}", lines.join("\n"));
    spool.append(text.as_bytes());
    spool.touch();
    complained(&service, &spool, "No space left");
    assert_eq!(spool.content(), text, "nothing is taken");
    // Nor does a try leave anything, or there would never be room again.
    let journal = state.join("spool");
    holds("nothing is left of a try", || {
        fs::read_dir(&journal).unwrap().count() == 0
    });
    assert_eq!(host.engine().calls().runs().len(), 1);
    assert!(service.operator().is_served() && service.client().is_served());

    fs::remove_file(filler).unwrap();
    spool.touch();
    for seconds in 1002..1005 {
        launched(&service, &spool, &format!("sleep-{seconds}"));
    }
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().calls().runs().len(), 4);
}

/// The agent's own disk: what the client says it has written is there, or it says that it is not.
#[test]
fn a_client_whose_line_does_not_fit_says_so_and_leaves_no_part_of_it() {
    let host = Host::new();
    let spool = Spool::new(&host, "sleep");
    let agent = with_spool(&host, &spool);
    mount(
        "tmpfs",
        spool.dir(),
        "tmpfs",
        MountFlags::empty(),
        c"size=64k",
    )
    .unwrap();
    // The lock is there before the disk is full, as in the field.
    drop(spool.hold());
    spool.append(b"'' 1001\n");
    let filler = spool.dir().join("filler");
    assert!(fs::write(&filler, vec![0; 1 << 20]).is_err(), "it is full");
    let long = "9".repeat(8000);
    let done = spool.client().args(["sleep", &long]).output().unwrap();
    assert_eq!(done.status.code(), Some(125), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("nothing was written"), "{said}");
    assert_eq!(spool.content(), "'' 1001\n");

    // With room for it, all is well, and no half line is in the way.
    fs::remove_file(filler).unwrap();
    let done = spool.client().args(["sleep", "1002"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let service = agent.start();
    launched(&service, &spool, "sleep-1001");
    launched(&service, &spool, "sleep-1002");
    assert!(service.audit().of_lines(spool.dir(), "denied").is_empty());
}
