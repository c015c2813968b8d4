//! `portcullis-policy init` and `presets`, as they are built: a preset becomes an agent's policy, whole or not at all.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![cfg(feature = "tool")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The folder of the shipped presets.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../presets")
}

fn tool(arguments: &[&str], presets: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis-policy"))
        .args(arguments)
        .arg("--presets")
        .arg(presets)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A host's directory of policies, which is not there yet.
struct Host {
    directory: TempDir,
    agents: PathBuf,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            agents: directory.path().join("portcullis/agents"),
            directory,
        }
    }

    fn init_from(&self, agent: &str, name: &str, presets: &Path) -> (Option<i32>, String, String) {
        let agents = self.agents.to_str().unwrap();
        let arguments = ["init", agent, "--preset", name, "--directory", agents];
        tool(&arguments, presets)
    }

    fn init(&self, agent: &str, name: &str) -> (Option<i32>, String, String) {
        self.init_from(agent, name, &shipped())
    }

    /// Everything in the directory of policies.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = self.agents.read_dir() else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A folder with one preset of this text.
fn presets(text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("p.toml"), text).unwrap();
    directory
}

#[test]
fn init_writes_the_preset_as_it_is_readable_by_all_and_writable_by_root_alone() {
    let host = Host::new();
    let (code, _, err) = host.init("dhcp", "neutron-dhcp");
    assert_eq!((code, &*err), (Some(0), ""));
    assert_eq!(host.files(), ["dhcp.toml"]);
    let path = host.agents.join("dhcp.toml");
    assert_eq!(
        fs::read(&path).unwrap(),
        fs::read(shipped().join("neutron-dhcp.toml")).unwrap()
    );
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&path), mode(&host.agents)), (0o644, 0o755));
}

#[test]
fn init_says_what_remains_to_be_done() {
    let host = Host::new();
    let (_, out, _) = host.init("dhcp", "neutron-dhcp");
    for expected in [
        "    systemctl enable --now portcullis@dhcp.socket\n",
        "    podman run … \\\n",
        "--volume=/run/portcullis/dhcp:/run/portcullis:ro \\\n",
        "--volume=/run/netns:/run/netns:ro,rslave \\\n",
        "/portcullis:/usr/bin/portcullis:ro \\\n",
        "/portcullis:/usr/sbin/dnsmasq:ro \\\n",
        "/portcullis:/usr/sbin/haproxy:ro \\\n",
    ] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    assert_eq!(out.matches("/usr/sbin/dnsmasq").count(), 1, "{out}");
}

#[test]
fn init_never_replaces_a_policy() {
    let host = Host::new();
    assert_eq!(host.init("a", "demo").0, Some(0));
    let path = host.agents.join("a.toml");
    fs::write(&path, "the operator's").unwrap();
    let (code, out, err) = host.init("a", "neutron-dhcp");
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(err.contains("a.toml is there already"), "{err}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "the operator's");
    // A link that leads nowhere is something, too.
    std::os::unix::fs::symlink("/nonexistent/x", host.agents.join("b.toml")).unwrap();
    assert_eq!(host.init("b", "demo").0, Some(1));
    assert_eq!(host.files(), ["a.toml", "b.toml"]);
}

#[test]
fn a_draft_that_init_did_not_make_is_left_and_named() {
    let host = Host::new();
    fs::create_dir_all(&host.agents).unwrap();
    // The shell's number is the tool's after `exec`, and so the end of its draft's name.
    let script = "echo theirs >\"$2/a.toml.$$\" && \
                  exec \"$0\" init a --preset demo --presets \"$1\" --directory \"$2\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_portcullis-policy")])
        .args([&shipped(), &host.agents])
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    let files = host.files();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].starts_with("a.toml."), "{files:?}");
    let theirs = host.agents.join(&files[0]);
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs\n");
    let named = format!("{}, which is there already", theirs.display());
    assert!(err.contains(&named), "{err}");
}

#[test]
fn two_agents_may_have_one_preset() {
    let host = Host::new();
    assert_eq!(host.init("one", "demo").0, Some(0));
    assert_eq!(host.init("two", "demo").0, Some(0));
}

#[test]
fn a_name_that_no_agent_can_have_is_refused() {
    for name in ["../x", "A", "", "a.b"] {
        let host = Host::new();
        assert_eq!(host.init(name, "demo").0, Some(1), "{name}");
        assert_eq!(host.files(), Vec::<String>::new());
    }
}

#[test]
fn a_preset_that_is_not_there_is_told_with_those_that_are() {
    let host = Host::new();
    for name in ["nope", "../presets/demo", "demo.toml", ""] {
        let (code, _, err) = host.init("a", name);
        assert_eq!(code, Some(1));
        assert!(err.contains("demo, neutron-dhcp"), "{err}");
    }
    assert_eq!(host.files(), Vec::<String>::new());
}

#[test]
fn a_preset_with_an_error_or_a_lint_of_the_level_deny_is_not_written() {
    let root = fs::read_to_string(shipped().join("neutron-dhcp.toml"))
        .unwrap()
        .replace("user = \"42435:42435\"", "user = \"0:0\"");
    for (text, expected) in [
        ("version = 2\n", "p.toml:1:"),
        (&*root, "error: host-pid-root"),
    ] {
        let host = Host::new();
        let (code, out, err) = host.init_from("a", "p", presets(text).path());
        assert_eq!((code, &*out), (Some(1), ""), "{err}");
        assert!(err.contains(expected), "{err}");
        assert_eq!(host.files(), Vec::<String>::new());
    }
}

/// Its paths are examples: a link of this host is shown, and the policy is there to be adapted.
#[test]
fn link_on_the_way_does_not_stop_init() {
    let host = Host::new();
    let link = host.directory.path().join("link");
    std::os::unix::fs::symlink(host.directory.path(), &link).unwrap();
    let text = fs::read_to_string(shipped().join("demo.toml")).unwrap();
    let text = text.replace("/var/lib/portcullis-demo", link.to_str().unwrap());
    let (code, _, err) = host.init_from("a", "p", presets(&text).path());
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("a symbolic link is on the way"), "{err}");
    assert_eq!(host.files(), ["a.toml"]);
}

#[test]
fn a_container_name_of_another_agent_is_an_error_before_anything_is_written() {
    let host = Host::new();
    let fixed = fs::read_to_string(shipped().join("demo.toml"))
        .unwrap()
        .replace("{agent}-dnsmasq", "x-dnsmasq");
    let presets = presets(&fixed);
    assert_eq!(host.init_from("one", "p", presets.path()).0, Some(0));
    let (code, _, err) = host.init_from("two", "p", presets.path());
    assert_eq!(code, Some(1));
    assert!(
        err.contains("can make containers of the same name"),
        "{err}"
    );
    assert_eq!(host.files(), ["one.toml"]);
}

#[test]
fn presets_are_listed_with_what_they_are_for() {
    let (code, out, err) = tool(&["presets"], &shipped());
    assert_eq!((code, &*err), (Some(0), ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("demo          A first look: "),
        "{out}"
    );
    assert!(
        lines[1].starts_with("neutron-dhcp  OpenStack Neutron's DHCP agent"),
        "{out}"
    );
    let (code, _, err) = tool(&["presets"], Path::new("/nonexistent"));
    assert_eq!(code, Some(2));
    assert!(err.contains("/nonexistent: cannot be listed"), "{err}");
}
