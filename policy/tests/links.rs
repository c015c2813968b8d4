//! `check` looks at the host: a symbolic link on the way to a path that a policy names, and what to write instead.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![cfg(feature = "tool")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::one_rule;
use tempfile::TempDir;

/// A host's directories, and a policy that names some of them.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(host.at("data/lib/agent")).unwrap();
        symlink("data/lib", host.at("lib")).unwrap();
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    /// Exit code, and what `check` complains of in a policy with these keys of the container, and these tables.
    fn check(&self, options: &[&str], container: &str, tables: &str) -> (Option<i32>, String) {
        let container = format!("name = \"a-x\"\nmemory = \"64MiB\"\n{container}");
        let image = format!("localhost/i@sha256:{}", "0".repeat(64));
        let policy = one_rule(
            "spool = true\nargs = [{ min = 1, pattern = \"{id:uuid}\" }]",
            &container,
        )
        .replace("localhost/i:1", &image);
        let policy = policy.replace("[[launch]]", "[peer]\nuid = 0\n[[launch]]");
        let policy = if tables.is_empty() {
            policy.replace("spool = true", "")
        } else {
            policy.replace("[peer]\nuid = 0\n", "allow = { no-peer = \"a test\" }\n") + tables
        };
        let path = self.at("a.toml");
        fs::write(&path, policy).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_portcullis-policy"));
        let done = check.arg("check").args(options).arg(path).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        (done.status.code(), said)
    }

    fn mount(&self, source: &str) -> String {
        let source = self.at(source);
        format!("mounts = [{{ source = {source:?}, target = \"/data\", mode = \"ro\" }}]")
    }
}

fn text(path: &Path) -> String {
    format!("{path:?}")
}

#[test]
fn link_to_mount_source_is_an_error() {
    let host = Host::new();
    let (code, said) = host.check(&[], &host.mount("lib/agent"), "");
    assert_eq!(code, Some(1), "{said}");
    let link = format!("{} -> \"data/lib\"", text(&host.at("lib")));
    let remedy = format!("write {}", text(&host.at("data/lib/agent")));
    assert!(said.contains(&link) && said.contains(&remedy), "{said}");
    // At its place in the file.
    assert!(said.contains("a.toml:") && said.contains("^^^"), "{said}");
}

#[test]
fn canonical_spelling_has_nothing_to_remark() {
    let host = Host::new();
    let (code, said) = host.check(&[], &host.mount("data/lib/agent"), "");
    assert_eq!((code, &*said), (Some(0), ""));
}

#[test]
fn part_before_a_value_is_looked_at() {
    let host = Host::new();
    let source = host.at("lib/agent").join("{id}");
    let mounts = format!("mounts = [{{ source = {source:?}, target = \"/data\", mode = \"ro\" }}]");
    let (_, said) = host.check(&[], &mounts, "");
    let remedy = format!("write {}", text(&host.at("data/lib/agent")));
    assert!(said.contains(&remedy), "{said}");
}

#[test]
fn spool_and_lock_are_looked_at() {
    let host = Host::new();
    let table = format!(
        "[[spool]]\ncommand = \"c\"\ndir = {:?}\nlock = {:?}\n",
        host.at("lib/spool"),
        host.at("lib/lock")
    );
    let (code, said) = host.check(&[], "", &table);
    assert_eq!(code, Some(1), "{said}");
    for (what, path) in [("a spool,", "spool"), ("a spool's lock,", "lock")] {
        // What is not there yet is named where it would be.
        let remedy = format!("write {}", text(&host.at("data/lib").join(path)));
        assert!(said.contains(what) && said.contains(&remedy), "{said}");
    }
}

#[test]
fn missing_path_is_no_error() {
    let host = Host::new();
    let (code, said) = host.check(&[], &host.mount("nothing/here"), "");
    assert_eq!((code, &*said), (Some(0), ""));
}

#[test]
fn link_that_leads_nowhere_is_an_error() {
    let host = Host::new();
    symlink("/nowhere/\u{1b}[2J", host.at("dangling")).unwrap();
    let (code, said) = host.check(&[], &host.mount("dangling/a"), "");
    assert_eq!(code, Some(1));
    assert!(said.contains("leads nowhere"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

/// `check --no-lints` says what keeps a policy from being loaded, and a link does not.
#[test]
fn without_lints_the_host_is_not_looked_at() {
    let host = Host::new();
    let (code, said) = host.check(&["--no-lints"], &host.mount("lib/agent"), "");
    assert_eq!((code, &*said), (Some(0), ""));
}

/// Every host has these links, and the launcher knows them.
#[test]
fn hosts_own_links_are_no_error() {
    let host = Host::new();
    for source in ["/var/run/netns", "/var/lock/agent"] {
        let mounts = format!("mounts = [{{ source = {source:?}, mode = \"ro\" }}]");
        let (code, said) = host.check(&[], &mounts, "");
        assert_eq!((code, &*said), (Some(0), ""), "{source}");
    }
}
