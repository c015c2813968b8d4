//! A mount beneath another one is refused wherever somebody but the operator may write what the outer one shows.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_wire::Reason;
use support::*;

const NESTED: &str = "a mount's target lies beneath another one's";
const SAME: &str = "two mounts can have the same target";

/// A rule with the names `id` and `word` and these mounts, each `source target mode`.
fn policy(mounts: &[&str]) -> String {
    let mounts: Vec<String> = mounts.iter().map(|mount| mount_of(mount)).collect();
    one_rule(
        "netns = \"n-{id:uuid}\"\nargs = [{ min = 1, pattern = \"{word:word}\" }]",
        &format!("name = \"c-{{id}}\"\nmounts = [{}]", mounts.join(", ")),
    )
}

fn mount_of(mount: &str) -> String {
    let words: Vec<&str> = mount.split(' ').collect();
    let [source, target, mode] = words[..] else {
        panic!("{mount}");
    };
    format!("{{ source = \"{source}\", target = \"{target}\", mode = \"{mode}\" }}")
}

#[track_caller]
fn refused(mounts: &[&str], title: &str) {
    for mounts in [mounts.to_vec(), mounts.iter().rev().copied().collect()] {
        assert_eq!(problems(&policy(&mounts)), [title], "{mounts:?}");
    }
}

#[track_caller]
fn accepted(mounts: &[&str]) {
    for mounts in [mounts.to_vec(), mounts.iter().rev().copied().collect()] {
        assert_eq!(
            problems(&policy(&mounts)),
            Vec::<String>::new(),
            "{mounts:?}"
        );
    }
}

#[test]
fn target_beneath_agents_mount_is_refused() {
    for outer in [
        "/srv/{id} /jobs rw",
        "/srv/{id} /jobs ro",
        "/srv/jobs /jobs rw",
    ] {
        for inner in [
            "/opt/x /jobs/x ro",
            "/opt/x /jobs/x rw",
            "/srv/{id}/x /jobs/x ro",
            "/opt/x /jobs/a/b/c ro",
            "/opt/{id} /jobs/{id} ro",
            "/opt/{word} /jobs/{word}/x rw",
        ] {
            refused(&[outer, inner], NESTED);
        }
    }
}

#[test]
fn target_with_values_that_could_nest_is_refused() {
    for (outer, inner) in [
        ("/srv/{id} /{word} rw", "/opt/x /jobs/x ro"),
        ("/srv/{id} /j{word} rw", "/opt/x /jobs/x ro"),
        ("/srv/{id} /jobs/{word} rw", "/opt/x /jobs/a/b ro"),
        ("/srv/{id} /jobs/{word} rw", "/opt/x /jobs/{word}/b ro"),
        ("/srv/{id} /jobs/{netns} rw", "/opt/x /jobs/n-{id}/b ro"),
    ] {
        refused(&[outer, inner], NESTED);
    }
}

#[test]
fn targets_that_only_look_alike_are_accepted() {
    accepted(&["/srv/{id} /jobs rw", "/opt/x /jobshop/x ro"]);
    accepted(&["/srv/{id} /jobs/a rw", "/opt/x /jobs/b ro"]);
    // A uuid is neither `b` nor begins with `n-`.
    accepted(&["/srv/{id} /jobs/{id} rw", "/opt/x /jobs/b ro"]);
    accepted(&["/srv/{id} /jobs/{id} rw", "/opt/x /jobs/{netns}/b ro"]);
    accepted(&["/srv/{id} /jobs/{id}/a rw", "/opt/{word} /jobs/{id}/b rw"]);
}

#[test]
fn equal_targets_are_refused() {
    refused(&["/srv/a /jobs ro", "/srv/b /jobs ro"], SAME);
    refused(&["/srv/{id} /jobs/{word} rw", "/opt/x /jobs/a ro"], SAME);
    refused(&["/srv/{id} /bin rw", "/opt/x /usr/bin ro"], SAME);
    refused(&["/srv/{id} /var/run/x rw", "/opt/x /run/x ro"], SAME);
}

/// An image usually has `/bin` and `/var/run` as links: the runtime follows them when it looks for a target.
#[test]
fn target_beneath_through_usual_link_is_refused() {
    refused(&["/srv/{id} /run rw", "/opt/x /var/run/x ro"], NESTED);
    refused(&["/srv/{id} /var/run rw", "/opt/x /run/x ro"], NESTED);
    refused(&["/srv/{id} /var rw", "/opt/x /var/run/x ro"], NESTED);
    refused(&["/srv/{id} /usr rw", "/opt/x /lib64/x ro"], NESTED);
    refused(
        &["/srv/{id} /var/lock/{id} rw", "/opt/x /run/lock/{id}/y ro"],
        NESTED,
    );
}

#[test]
fn target_beneath_operators_mount_is_accepted() {
    accepted(&["/opt/app /app ro", "/srv/{id} /app/data rw"]);
    accepted(&[
        "/opt/app /app ro",
        "/srv/data /app/data rw",
        "/opt/conf /app/conf ro",
    ]);
    // The inner one is in turn not the operator's.
    refused(
        &[
            "/opt/app /app ro",
            "/srv/{id} /app/data rw",
            "/opt/x /app/data/x ro",
        ],
        NESTED,
    );
}

/// A source without a value need not be the operator's: here the rest of the policy shows that the agent writes there.
#[test]
fn literal_source_where_something_is_written_is_not_operators() {
    for written in [
        "/srv/app/{id} /one ro",
        "/srv/{id} /one ro",
        "/srv/app/a/b/{id} /one ro",
        "/srv/app /one rw",
        "/srv /one rw",
        "/srv/app/x /one rw",
        "/{word} /one ro",
    ] {
        refused(&[written, "/srv/app /app ro", "/opt/x /app/x ro"], NESTED);
    }
    accepted(&[
        "/srv/application /one rw",
        "/srv/app /app ro",
        "/opt/x /app/x ro",
    ]);
    // Spelt otherwise, it is the same directory of the host.
    refused(
        &["/run/x /one rw", "/var/run/x /app ro", "/opt/x /app/x ro"],
        NESTED,
    );
}

#[test]
fn another_rule_and_spool_show_where_is_written() {
    let nested = policy(&["/srv/app /app ro", "/opt/x /app/x ro"]);
    assert_eq!(problems(&nested), Vec::<String>::new());
    let other = one_rule(
        "",
        &format!("name = \"other\"\nmounts = [{}]", mount_of("/srv /x rw")),
    );
    let (_, other) = other.split_once("[[launch]]").unwrap();
    let other = other.replace("rule = \"r\"", "rule = \"other\"");
    assert_eq!(problems(&format!("{nested}[[launch]]{other}")), [NESTED]);
    for (dir, lock) in [
        ("/srv/app/spool", ""),
        ("/srv/s", "lock = \"/srv/app/l\"\n"),
    ] {
        let spool = format!("[[spool]]\ncommand = \"c\"\ndir = \"{dir}\"\n{lock}");
        let toml = nested.replace("command = \"c\"", "command = \"c\"\nspool = true");
        assert_eq!(problems(&(toml + &spool)), [NESTED], "{dir} {lock}");
    }
}

#[test]
fn nested_target_is_shown_with_both_places() {
    let toml = policy(&["/srv/{id} /jobs rw", "/opt/tools /jobs/tools ro"]);
    let problems = load(&[text("dhcp.toml", &toml)]).unwrap_err();
    insta::assert_snapshot!(problems.to_string());
}

/// What the texts do not show is looked at again in each request.
#[test]
fn value_that_leads_beneath_another_target_is_denied() {
    let policy = loaded(&policy(&["/srv/{id} /usr/bin rw", "/opt/x /{word}/x ro"]));
    let ask = |word| request("c", Some(&format!("n-{A}")), &[word]);
    allowed(&policy, &ask("opt"));
    let denial = denied(&policy, &ask("bin"));
    assert_eq!(denial.reason, Reason::Mount);
    assert!(denial.message.contains("\"/bin/x\""), "{}", denial.message);
}
