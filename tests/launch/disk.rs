//! A disk that is full: what cannot be put on record is not launched.

use portcullis_tests::{Host, SLEEP, failed, launch, launched};
use portcullis_wire::Reason;
use rustix::mount::{MountFlags, mount};
use std::fs;

#[test]
fn a_full_disk_is_a_clear_error_nothing_is_launched_and_with_room_all_is_well() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    let state = agent.state();
    mount("tmpfs", &state, "tmpfs", MountFlags::empty(), c"size=256k").unwrap();
    let service = agent.start();
    let first = launched(service.client().launch(launch("sleep", &["2000"])));
    assert!(!first.reused);
    let filler = state.join("filler");
    assert!(fs::write(&filler, vec![0; 1 << 20]).is_err(), "it is full");
    let runs = host.engine().calls().runs().len();

    let failure = failed(service.client().launch(launch("sleep", &["1000"])));
    assert_eq!(failure.reason, Reason::Internal, "{failure:?}");
    assert_eq!(host.engine().calls().runs().len(), runs);
    assert!(host.engine().find("sleep-1000").is_none());
    let audit = service.audit();
    let detail = audit.with("reason", "internal")[0]["detail"].to_string();
    assert!(detail.contains("No space left"), "{detail}");

    fs::remove_file(filler).unwrap();
    let answer = launched(service.client().launch(launch("sleep", &["1000"])));
    assert!(!answer.reused);
}
