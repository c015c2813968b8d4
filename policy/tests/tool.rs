//! The operator's tool, as it is built.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![cfg(feature = "tool")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use support::*;

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis-policy"))
        .args(arguments)
        .output()
        .unwrap()
}

fn words(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A policy with nothing to remark.
fn clean(name: &str) -> String {
    one_rule("", &format!("name = \"{name}\"\nmemory = \"64MiB\""))
        .replace(
            "localhost/i:1",
            &format!("localhost/i@sha256:{}", "0".repeat(64)),
        )
        .replace("[[launch]]", "[peer]\nuid = 0\n[[launch]]")
}

#[test]
fn check_says_nothing_but_what_it_found_when_all_is_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a.toml", &clean("a-x"));
    let (code, out, err) = words(&tool(&["check", &path]));
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(out.contains("agent a, 1 rules, 0 lints"), "{out}");
}

#[test]
fn check_fails_on_an_error_and_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(
        directory.path(),
        "a.toml",
        &clean("a-x").replace("command", "comand"),
    );
    let (code, _, err) = words(&tool(&["check", &path]));
    assert_eq!(code, Some(1));
    assert!(err.contains("did you mean `command`?"), "{err}");
}

#[test]
fn check_as_judges_a_file_of_any_name_as_the_policy_that_it_is_to_replace() {
    let directory = tempfile::tempdir().unwrap();
    let place = write(directory.path(), "agents/a.toml", &clean("a-x"));
    let broken = clean("a-x").replace("command", "comand");
    let draft = write(directory.path(), ".source.1", &broken);
    let (code, _, err) = words(&tool(&["check", "--as", &place, &draft]));
    assert_eq!(code, Some(1));
    assert!(err.contains(&place) && !err.contains(&draft), "{err}");

    let draft = write(directory.path(), ".source.1", &clean("a-y"));
    let (code, out, err) = words(&tool(&["check", "--as", &place, &draft]));
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(out.contains(&format!("{place}: agent a, 1 rules")), "{out}");

    // Its drop-ins and its neighbours are those of the place; what it replaces is neither.
    let rule = clean("a-z").replace("rule = \"r\"", "rule = \"more\"");
    let rule = rule.split_once("[[launch]]").unwrap().1;
    let drop_in = format!("[[launch]]{rule}");
    write(directory.path(), "agents/a.d/10.toml", &drop_in);
    let (code, out, _) = words(&tool(&["check", "--as", &place, &draft]));
    assert_eq!(code, Some(0));
    assert!(out.contains("2 rules"), "{out}");
    write(directory.path(), "agents/b.toml", &clean("a-y"));
    let (code, _, err) = words(&tool(&["check", "--as", &place, &draft]));
    assert_eq!(code, Some(1));
    assert!(err.contains("containers of the same name"), "{err}");
}

#[test]
fn check_as_judges_a_drop_in_with_the_policy_and_the_other_drop_ins() {
    let directory = tempfile::tempdir().unwrap();
    let drop_in = |rule: &str, name: &str| {
        let text = clean(name).replace("rule = \"r\"", &format!("rule = \"{rule}\""));
        format!("[[launch]]{}", text.split_once("[[launch]]").unwrap().1)
    };
    write(directory.path(), "a.toml", &clean("a-x"));
    write(directory.path(), "a.d/10.toml", &drop_in("ten", "a-10"));
    write(directory.path(), "a.d/30.toml", &drop_in("thirty", "a-30"));
    let place = directory.path().join("a.d/20.toml");
    let place = place.to_str().unwrap();
    let check = |place: &str, text: &str| {
        let draft = write(directory.path(), "draft", text);
        words(&tool(&["check", "--as", place, &draft]))
    };

    let (code, out, err) = check(place, &drop_in("twenty", "a-20"));
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(out.contains("agent a, 4 rules"), "{out}");
    // The same rule twice; but not when it is the file that is to be replaced.
    let (code, _, err) = check(place, &drop_in("ten", "a-20"));
    assert_eq!(code, Some(1));
    assert!(err.contains("20.toml"), "{err}");
    let ten = place.replace("20.toml", "10.toml");
    let (code, out, _) = check(&ten, &drop_in("ten", "a-11"));
    assert_eq!(code, Some(0));
    assert!(out.contains("3 rules"), "{out}");
}

#[test]
fn check_as_takes_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let draft = write(directory.path(), "draft", &clean("a-x"));
    for arguments in [
        &["check", "--as", "a.toml"][..],
        &["check", "--as", "a.toml", &draft, &draft],
    ] {
        let (code, _, err) = words(&tool(arguments));
        assert_eq!(code, Some(2), "{err}");
    }
}

#[test]
fn check_fails_on_a_lint_of_the_level_deny_unless_it_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let root = clean("a-x")
        .replace("1000:1000", "0:0")
        .replace("memory", "pid = \"host\"\nmemory");
    let path = write(directory.path(), "a.toml", &root);
    let (code, _, err) = words(&tool(&["check", &path]));
    assert_eq!(code, Some(1));
    assert!(err.contains("error: host-pid-root: rule \"r\""), "{err}");
    let (code, out, err) = words(&tool(&["check", "--no-lints", &path]));
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(!out.contains("lints"), "{out}");
    let allowed = root.replace("command", "allow = { host-pid-root = \"a test\" }\ncommand");
    let path = write(directory.path(), "a.toml", &allowed);
    assert_eq!(words(&tool(&["check", &path])).0, Some(0));
    let whole = root.replace("[peer]", "[allow]\nhost-pid-root = \"a test\"\n[peer]");
    let path = write(directory.path(), "a.toml", &whole);
    assert_eq!(words(&tool(&["check", &path])).0, Some(0));
}

/// The names of a policy's lints.
fn lints(toml: &str) -> Vec<&'static str> {
    let agent = portcullis_wire::AgentName::new("a").unwrap();
    let (_, lints) = portcullis_policy::Policy::review(&agent, &[text("a.toml", toml)]).unwrap();
    lints.iter().map(|lint| lint.name).collect()
}

#[test]
fn a_spool_that_a_side_container_could_write_is_a_lint() {
    for (source, mode, expected) in [
        ("/srv/a/c", "rw", &["writable-spool"][..]),
        ("/srv/a/c", "ro", &[]),
        ("/srv/a", "rw", &["writable-spool"]),
        ("/srv/a/c/d", "rw", &["writable-spool"]),
        ("/srv/a/cd", "rw", &[]),
        ("/srv/a/{x}", "rw", &["writable-spool"]),
        ("/srv/a/b/{x}", "rw", &[]),
        (
            "/",
            "rw",
            &["host-socket", "writable-system-path", "writable-spool"],
        ),
    ] {
        let mount =
            format!("mounts = [{{ source = \"{source}\", target = \"/t\", mode = \"{mode}\" }}]");
        let toml = clean("c-x")
            .replace("command", "netns = \"n-{x:word}\"\nspool = true\ncommand")
            .replace("memory", &format!("{mount}\nmemory"))
            .replace(
                "[peer]\nuid = 0\n",
                "[allow]\nno-peer = \"a test\"\n[[spool]]\ncommand = \"c\"\ndir = \"/srv/a/c\"\n",
            );
        assert_eq!(lints(&toml), expected, "{toml}");
    }
}

#[test]
fn each_lint_is_found() {
    assert_eq!(lints(&clean("c-x")), Vec::<&str>::new());
    let with = |rule: &str, container: &str| {
        clean("c-x")
            .replace("command", &format!("{rule}\ncommand"))
            .replace("memory", &format!("{container}\nmemory"))
    };
    let takes_lines = |rule: &str| {
        with(&format!("spool = true\n{rule}"), "").replace(
            "[peer]\nuid = 0\n",
            "[allow]\nno-peer = \"a test\"\n[[spool]]\ncommand = \"c\"\ndir = \"/srv/c\"\n",
        )
    };
    assert_eq!(lints(&takes_lines("")), Vec::<&str>::new());
    for (lint, toml) in [
        ("privileged", with("", "privileged = true")),
        ("host-network", with("", "network = \"host\"")),
        ("host-pid", with("", "pid = \"host\"")),
        (
            "host-pid-root",
            with("", "pid = \"host\"").replace("1000:1000", "0:5"),
        ),
        (
            "unpinned-image",
            with("", "").replace(&format!("@sha256:{}", "0".repeat(64)), ":1"),
        ),
        (
            "short-image-name",
            with("", "").replace(&format!("localhost/i@sha256:{}", "0".repeat(64)), "busybox"),
        ),
        (
            "short-image-name",
            with("", "").replace(
                &format!("localhost/i@sha256:{}", "0".repeat(64)),
                "busybox:{:word}",
            ),
        ),
        (
            "unpinned-image",
            with("", "").replace(&format!("@sha256:{}", "0".repeat(64)), ":{:word}"),
        ),
        ("text-argument", with("args = [\"--x={:text}\"]", "")),
        ("text-argument", with("env = [\"X={:text}\"]", "")),
        (
            "broad-mount",
            with("", "mounts = [{ source = \"/etc\", mode = \"ro\" }]"),
        ),
        (
            "host-socket",
            with(
                "",
                "mounts = [{ source = \"/\", target = \"/host\", mode = \"ro\" }]",
            ),
        ),
        (
            "host-socket",
            with(
                "",
                "mounts = [{ source = \"/run/podman/podman.sock\", mode = \"ro\" }]",
            ),
        ),
        (
            "broad-mount",
            with(
                "netns = \"n-{x:word}\"",
                "mounts = [{ source = \"/srv/{x}\", mode = \"ro\" }]",
            ),
        ),
        (
            "agent-written-config",
            with(
                "args = [\"--conf=/srv/a/b\"]",
                "mounts = [{ source = \"/srv/a\", mode = \"rw\" }]",
            ),
        ),
        (
            "agent-written-config",
            with(
                "netns = \"n-{x:word}\"\nargs = [\"--conf=/srv/a/{x}\"]",
                "mounts = [{ source = \"/srv/a\", mode = \"ro\" }]",
            ),
        ),
        ("no-limits", with("", "").replace("memory = \"64MiB\"", "")),
        ("no-limits", with("", "pids = 0")),
        ("no-peer", with("", "").replace("[peer]\nuid = 0\n", "")),
        (
            "peer-beside-spool",
            with("spool = true", "") + "[[spool]]\ncommand = \"c\"\ndir = \"/srv/c\"\n",
        ),
        (
            "spool-never-matches",
            takes_lines("env = [{ min = 1, pattern = \"X={:int}\" }]"),
        ),
        (
            "spool-never-matches",
            takes_lines("").replace(&format!("@sha256:{}", "0".repeat(64)), "@sha256:{:hex}"),
        ),
        ("device", with("", "devices = [\"/dev/net/tun\"]")),
        ("lsm-off", with("", "selinux = \"disable\"")),
        ("lsm-off", with("", "apparmor = \"unconfined\"")),
        ("lsm-off", with("", "seccomp = \"unconfined\"")),
    ] {
        assert_eq!(lints(&toml), [lint], "{toml}");
    }
}

#[test]
fn a_lint_is_allowed_by_a_name_that_exists_and_with_a_reason() {
    let with = |allow: &str| {
        problems(&one_rule(
            &format!("allow = {{ {allow} }}"),
            "name = \"c-x\"",
        ))
    };
    assert_eq!(
        with("host-pidd = \"x\""),
        ["there is no lint \"host-pidd\""]
    );
    assert_eq!(
        with("host-pid = \" \""),
        ["a lint is allowed with a reason"]
    );
    assert_eq!(
        with("host-pid = \"pids are read by the agent\""),
        Vec::<String>::new()
    );
}

#[test]
fn check_finds_names_that_two_agents_share() {
    let directory = tempfile::tempdir().unwrap();
    let a = write(directory.path(), "a.toml", &clean("x-y"));
    write(directory.path(), "b.toml", &clean("x-y"));
    let (code, _, err) = words(&tool(&["check", &a]));
    assert_eq!(code, Some(1));
    assert!(
        err.contains("can make containers of the same name"),
        "{err}"
    );
    write(directory.path(), "b.toml", &clean("b-y"));
    assert_eq!(words(&tool(&["check", &a])).0, Some(0));
}

#[test]
fn check_reads_drop_ins() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "a.toml", &clean("a-x"));
    write(directory.path(), "a.d/more.toml", "[[launch]]\n");
    let (code, _, err) = words(&tool(&["check", &path]));
    assert_eq!(code, Some(1));
    assert!(err.contains("a.d/more.toml"), "{err}");
}

#[test]
fn check_needs_the_agents_name_in_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "Agent X.toml", &clean("a-x"));
    let (code, _, err) = words(&tool(&["check", &path]));
    assert_eq!(code, Some(1));
    assert!(err.contains("the file's name is the agent's"), "{err}");
    assert_eq!(words(&tool(&["check", "/nonexistent/a.toml"])).0, Some(1));
}

fn explain(extra: &[&str], command: &[&str]) -> (Option<i32>, String, String) {
    let path = format!("{}/tests/data/neutron.toml", env!("CARGO_MANIFEST_DIR"));
    let mut arguments = vec!["explain", "--policy", &path, "dhcp"];
    arguments.extend(extra);
    arguments.push("--");
    arguments.extend(command);
    words(&tool(&arguments))
}

#[test]
fn explain_shows_rule_by_rule_why_and_podmans_command_line() {
    let args = dnsmasq_args(A);
    let mut command = vec!["dnsmasq"];
    command.extend(args.iter().map(String::as_str));
    let netns = format!("qdhcp-{A}");
    let (code, out, err) = explain(&["--netns", &netns], &command);
    assert_eq!((code, &*err), (Some(0), ""));
    insta::assert_snapshot!("allowed", out);
    command.push("--dhcp-script=/tmp/x\u{202e}y");
    let (code, out, _) = explain(&["--netns", &netns], &command);
    assert_eq!(code, Some(1));
    insta::assert_snapshot!("denied", out);
}

#[test]
fn explain_takes_the_peer_into_account_when_it_is_told() {
    let netns = format!("qdhcp-{A}");
    let command = [
        "haproxy",
        "-f",
        &format!("/var/lib/neutron/ns-metadata-proxy/{A}.conf"),
    ];
    assert_eq!(explain(&["--netns", &netns], &command).0, Some(0));
    assert_eq!(
        explain(&["--netns", &netns, "--uid", "0"], &command).0,
        Some(0)
    );
    let (code, out, _) = explain(&["--netns", &netns, "--uid", "1000"], &command);
    assert_eq!(code, Some(1));
    assert!(out.contains("does not admit uid 1000"), "{out}");
}

#[test]
fn explain_writes_json_for_programs() {
    let netns = format!("qdhcp-{A}");
    let command = [
        "haproxy",
        "-f",
        &format!("/var/lib/neutron/ns-metadata-proxy/{A}.conf"),
    ];
    let (code, out, _) = explain(&["--netns", &netns, "--json"], &command);
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["allowed"], true);
    assert_eq!(json["plan"]["podman"][0], "run");
    assert_eq!(json["rules"][0]["skipped"], "is for another command");
    assert_eq!(json["rules"][2]["matches"], true);
}

#[test]
fn what_no_client_can_send_is_not_explained() {
    let (code, _, err) = explain(&["--env", "=x"], &["dnsmasq"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("malformed"), "{err}");
}
