//! What the operator's tool, as it is built, says of spools: `lines`, `path-unit`, `explain --line`, `check`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![cfg(feature = "tool")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use support::*;

/// Runs the tool, and gives its exit code and what it said on standard output and on standard error.
fn tool(arguments: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis-policy"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that fails early does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    (output.status.code(), out, err)
}

const DIR: &str = "/var/lib/neutron/neutron-dnsmasq";

/// A policy in a directory of its own: Neutron's, with a spool for dnsmasq.
fn neutron_with_a_spool(directory: &Path) -> String {
    let rule = "rule = \"dnsmasq\"\n";
    let text = data("neutron.toml").text;
    assert_eq!(text.matches(rule).count(), 1);
    let text = text.replace(rule, &format!("{rule}spool = true\n"))
        + &format!("\n[[spool]]\ncommand = \"dnsmasq\"\ndir = \"{DIR}\"\n");
    write(directory, "dhcp.toml", &text)
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A policy of one rule that takes lines, and of these spools for it.
fn spools(directory: &Path, agent: &str, dirs: &[&str]) -> String {
    let mut text = one_rule("spool = true", &format!("name = \"{agent}-x\""));
    for dir in dirs {
        text += &format!("[[spool]]\ncommand = \"c\"\ndir = '{dir}'\n");
    }
    write(directory, &format!("{agent}.toml"), &text)
}

/// The lines of a wrapper that does not quote, one that does, and what else may stand in such a file.
fn processes() -> Vec<u8> {
    let plain = format!("qdhcp-{A} {}", dnsmasq_args(A).join(" "));
    let mut lines = format!("{plain}\n");
    lines += &format!("{plain} '--txt-record=two words'\n{plain} --txt-record=two words\n");
    lines += &format!("{plain} '' --log-dhcp\n");
    lines += &format!(
        "{}\n",
        plain.replace("--no-hosts", "--dhcp-script=/tmp/x\u{202e}y")
    );
    lines += &format!(" {}\n", dnsmasq_args(A).join(" "));
    lines += &format!("qdhcp-{B} {}\n", dnsmasq_args(A).join(" "));
    lines += &format!("\n{plain} 'open\n{}\n{plain}", "x".repeat(64 * 1024 + 1));
    lines.into_bytes()
}

#[test]
fn lines_says_a_verdict_for_each_line_and_fails_when_any_is_denied() {
    let directory = tempfile::tempdir().unwrap();
    let path = neutron_with_a_spool(directory.path());
    let (code, out, err) = tool(&["lines", &path, "--spool", DIR], &processes());
    assert_eq!((code, &*err), (Some(1), ""));
    insta::assert_snapshot!("verdicts", out);

    let whole = processes();
    let end = whole.iter().position(|byte| *byte == b'\n').unwrap();
    let (code, out, _) = tool(&["lines", &path, "--spool", DIR], &whole[..=end]);
    assert_eq!(code, Some(0), "{out}");
    let denied_first = [b"\n", &whole[..=end]].concat();
    let (code, out, _) = tool(&["lines", &path, "--spool", DIR], &denied_first);
    assert_eq!(code, Some(1), "{out}");
    let (code, out, _) = tool(&["lines", &path, "--spool", DIR], b"");
    assert_eq!((code, &*out), (Some(0), ""));
}

#[test]
fn a_line_that_makes_no_datagram_is_too_large_whatever_the_rules_allow() {
    let directory = tempfile::tempdir().unwrap();
    let open = "spool = true\nargs = [\"{:text}\"]\n";
    let text = one_rule(open, "name = \"c-x\"") + "[[spool]]\ncommand = \"c\"\ndir = \"/srv/c\"\n";
    let path = write(directory.path(), "dhcp.toml", &text);
    for (length, verdict) in [
        (32 * 1024, "1: allowed: rule r, "),
        (64 * 1024, "1: denied: too-large: "),
    ] {
        let line = format!(" {}\n", "x".repeat(length - 1));
        let (_, out, _) = tool(&["lines", &path, "--spool", "/srv/c"], line.as_bytes());
        assert!(out.starts_with(verdict), "{out}");
        assert!(!out.contains("longer than"), "it is a line: {out}");
    }
}

#[test]
fn lines_needs_a_policy_that_loads_and_has_the_spool() {
    let directory = tempfile::tempdir().unwrap();
    let path = neutron_with_a_spool(directory.path());
    let (code, out, err) = tool(&["lines", &path, "--spool", "/srv"], &processes());
    assert_eq!((code, &*out), (Some(2), ""));
    let told = format!("the policy has no [[spool]] at \"/srv\"; it has: {DIR:?}\n");
    assert_eq!(err, told);
    let broken = write(directory.path(), "b.toml", "version = 2\n");
    let (code, _, err) = tool(&["lines", &broken, "--spool", DIR], &processes());
    assert_eq!(code, Some(2));
    assert!(err.contains("version = 1"), "{err}");
}

#[test]
fn explain_takes_a_line_of_a_spool_instead_of_a_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = neutron_with_a_spool(directory.path());
    let explain = |line: &str| {
        let spool = ["--spool", DIR, "--line", line, "dhcp"];
        tool(&[&["explain", "--policy", &path][..], &spool].concat(), b"")
    };
    let plain = format!("qdhcp-{A} {}", dnsmasq_args(A).join(" "));
    let (code, out, err) = explain(&plain);
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(out.starts_with("allowed\nrule dnsmasq: matches\n"), "{out}");
    let passed_over = "rule dnsmasq-segment: takes no lines: it has no `spool = true`\n";
    assert!(out.contains(passed_over), "{out}");
    let (code, out, _) = explain(&(plain + " two words"));
    assert_eq!(code, Some(1));
    assert!(
        out.contains("- argument 17, \"two\", is not allowed; a wrapper"),
        "{out}"
    );
    let (code, _, err) = explain("n 'x");
    assert_eq!(code, Some(2));
    assert!(
        err.contains("the line would be denied as malformed"),
        "{err}"
    );

    for wrong in [
        &["--line", "n"][..],
        &["--spool", DIR],
        &["--spool", DIR, "--", "dnsmasq"],
        &["--spool", DIR, "--line", "n", "--", "dnsmasq"],
        &["--spool", DIR, "--line", "n", "--netns", "n"],
        &["--spool", DIR, "--line", "n", "--uid", "0"],
    ] {
        let arguments = [&["explain", "--policy", &path, "dhcp"][..], wrong].concat();
        let (code, out, err) = tool(&arguments, b"");
        assert_eq!((code, &*out), (Some(2), ""), "{wrong:?}");
        assert!(err.contains("Usage:"), "{wrong:?}: {err}");
    }
}

#[test]
fn path_unit_prints_the_drop_in_that_watches_every_spool() {
    let directory = tempfile::tempdir().unwrap();
    let dirs = ["/srv/one", "/srv/50% off/{agent}", "/srv/%i \"\\;#$x\""];
    let path = spools(directory.path(), "dhcp", &dirs);
    let (code, out, err) = tool(&["path-unit", &path], b"");
    assert_eq!((code, &*err), (Some(0), ""));
    insta::assert_snapshot!("path_unit", out);
}

#[test]
fn path_unit_needs_a_policy_with_a_spool() {
    let directory = tempfile::tempdir().unwrap();
    let none = write(directory.path(), "a.toml", "version = 1\n");
    let (code, out, err) = tool(&["path-unit", &none], b"");
    assert_eq!((code, &*out), (Some(1), ""));
    let told = format!("{none}: the policy has no [[spool]]: there is nothing to watch\n");
    assert_eq!(err, told);
    let missing = directory.path().join("b.toml");
    let (code, out, err) = tool(&["path-unit", missing.to_str().unwrap()], b"");
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(err.contains("cannot be read"), "{err}");
}

#[test]
fn check_tells_how_many_spools_there_are_and_finds_one_that_two_agents_share() {
    let directory = tempfile::tempdir().unwrap();
    let check = |path: &str| tool(&["check", "--no-lints", path], b"");
    let a = spools(directory.path(), "a", &["/srv/a", "/srv/{agent}2"]);
    let (code, out, err) = check(&a);
    assert_eq!((code, &*err), (Some(0), ""));
    assert!(out.contains("agent a, 1 rules, 2 spools, "), "{out}");
    for (dir, shared) in [
        ("/srv/a", true),
        ("/srv", true),
        ("/srv/a2/x", true),
        ("/srv/{agent}", false),
        ("/srv/a3", false),
    ] {
        spools(directory.path(), "b", &[dir]);
        let (code, _, err) = check(&a);
        assert_eq!(code, Some(i32::from(shared)), "{dir}: {err}");
        assert_eq!(
            err.contains("are one directory, or one is beneath"),
            shared,
            "{err}"
        );
    }
}
