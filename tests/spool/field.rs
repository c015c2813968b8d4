//! Hosts and agents of the field: their wrapper with our launcher, our client with their script, and both at one lock.

use crate::{denied, launched, recorded};
use portcullis_tests::{Agent, Host, Netns, Spool, binary};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

/// A helper that is one of its namespace, named as in the field.
const HELPER: &str = r#"
[[launch]]
rule = "helper"
command = "helper"
spool = true
netns = "pct-{network:uuid}"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "helper"]
args = [
  "--no-hosts",
  { max = 1, pattern = "" },
  { max = 4, pattern = "--domain={:text}" },
  { max = 4, pattern = "--dhcp-range=set:subnet-{:uuid},{:ipv4},static,{:ipv4},{:int}s" },
]
[launch.container]
name = "neutron-helper-{netns}"
user = "0:0"
"#;

/// What the field's service is called.
const SERVICE: &str = "neutron-helper";

/// What an agent asks for every day.
const ARGUMENTS: [&str; 3] = [
    "--no-hosts",
    "--dhcp-range=set:subnet-6a02c5f5-5cf4-4a0e-8d0e-7d4f6a9b0a11,10.0.0.0,static,255.255.255.0,86400s",
    "--domain=openstacklocal",
];

/// A spool whose lock lies elsewhere, as in the field.
fn spool(host: &Host) -> Spool {
    let locks = host.path().join("locks");
    fs::create_dir(&locks).unwrap();
    Spool::new(host, "helper").with_lock(&locks.join("helper-processes.lock"))
}

fn script(name: &str) -> PathBuf {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/spool/field");
    PathBuf::from(dir).join(name)
}

/// Sets what both scripts know.
fn with_places<'c>(command: &'c mut Command, spool: &Spool) -> &'c mut Command {
    command.env("SPOOL", spool.dir()).env("LOCK", spool.lock())
}

/// The field's wrapper, called in a namespace.
fn wrapper(spool: &Spool, netns: &Netns, arguments: &[&str]) {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.name()]);
    command.arg(script("wrapper.sh")).args(arguments);
    let done = with_places(&mut command, spool).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// The field's script, as its path unit would start it.
fn sync(host: &Host, spool: &Spool) -> Output {
    let mut command = Command::new(script("sync.sh"));
    command.arg("/usr/bin/podman");
    command.args(host.engine().global_arguments());
    command.envs(host.engine().environment());
    command.env("SERVICE", SERVICE);
    command.env("IMAGE", portcullis_tests::IMAGE);
    let done = with_places(&mut command, spool).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    done
}

/// Our client, in a namespace or with its name, with more options.
fn client(spool: &Spool, netns: &Netns, options: &[&str], arguments: &[&str]) -> Output {
    let mut client = spool.client();
    client
        .args(options)
        .args(["--netns", netns.name(), "helper"]);
    client.args(arguments).output().unwrap()
}

/// The arguments with which the helper runs, and that it runs in that namespace.
#[track_caller]
fn runs_with(host: &Host, netns: &Netns) -> Vec<String> {
    let container = host.engine().container(&name(netns));
    assert_eq!(container.state, "running");
    let process = container.process();
    let inode = fs::read_link(process.file("ns/net")).unwrap();
    assert_eq!(inode.to_string_lossy(), format!("net:[{}]", netns.inode()));
    process.arguments().split_off(4)
}

fn name(netns: &Netns) -> String {
    format!("{SERVICE}-{}", netns.name())
}

fn agent<'h>(host: &'h Host, spool: &Spool) -> Agent<'h> {
    host.agent("blue", &format!("{HELPER}{}", spool.table()))
}

#[test]
fn what_the_fields_wrapper_writes_is_launched_by_us() {
    let host = Host::new();
    let spool = spool(&host);
    let agent = agent(&host, &spool);
    let (early, late) = (Netns::new(), Netns::new());
    wrapper(&spool, &early, &ARGUMENTS);
    let service = agent.start();
    launched(&service, &spool, &name(&early));
    wrapper(&spool, &late, &ARGUMENTS);
    launched(&service, &spool, &name(&late));
    for netns in [&early, &late] {
        assert_eq!(runs_with(&host, netns), ARGUMENTS);
    }
    // What runs is left alone.
    let before = host.engine().container(&name(&early));
    wrapper(&spool, &early, &ARGUMENTS);
    recorded(&service, &spool, "reused", &name(&early));
    spool.wait_until_done(&agent);
    assert_eq!(host.engine().container(&name(&early)).id, before.id);
}

#[test]
fn an_argument_with_a_space_that_the_fields_wrapper_has_broken_is_denied_and_says_which() {
    let host = Host::new();
    let spool = spool(&host);
    let agent = agent(&host, &spool);
    let service = agent.start();
    let netns = Netns::new();
    wrapper(&spool, &netns, &["--no-hosts", "--domain=open stack"]);
    let record = denied(&service, &spool, "argument", "'stack'");
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("stack"), "{detail}");
    // Our client does not break it.
    let words = ["--no-hosts", "--domain=open stack"];
    let done = client(&spool, &netns, &[], &words);
    assert!(done.status.success(), "{done:?}");
    launched(&service, &spool, &name(&netns));
    assert_eq!(runs_with(&host, &netns), words);
    assert_eq!(host.engine().calls().runs().len(), 1);
}

#[test]
fn what_our_client_writes_is_started_by_the_fields_script() {
    let host = Host::new();
    let spool = spool(&host);
    for options in [&["--legacy"][..], &[]] {
        let netns = Netns::new();
        let done = client(&spool, &netns, options, &ARGUMENTS);
        assert!(done.status.success(), "{done:?}");
        assert!(spool.timestamp().exists(), "the path unit is told");
        sync(&host, &spool);
        assert_eq!(runs_with(&host, &netns), ARGUMENTS);
        assert_eq!(spool.content(), "");
        // And a second time it is left alone.
        let before = host.engine().container(&name(&netns));
        let done = client(&spool, &netns, options, &ARGUMENTS);
        assert!(done.status.success(), "{done:?}");
        sync(&host, &spool);
        assert_eq!(host.engine().container(&name(&netns)).id, before.id);
    }
}

/// The applet in its namespace, with the spool where an agent has it mounted.
#[test]
fn our_client_finds_the_namespace_that_the_fields_wrapper_finds() {
    let host = Host::new();
    let spool = Spool::new(&host, "helper");
    let netns = Netns::new();
    wrapper(&spool, &netns, &["--no-hosts"]);
    let applet = host.path().join("helper");
    symlink(binary("portcullis"), &applet).unwrap();
    // In the mount namespace that `ip netns exec` makes.
    let mount = r#"mount -t tmpfs tmpfs /var/lib && mkdir -p /var/lib/portcullis/spool/helper &&
        mount --bind "$0" /var/lib/portcullis/spool/helper && exec "$@""#;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.name(), "sh", "-c", mount]);
    command.arg(spool.dir()).arg(applet).arg("--no-hosts");
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let written = format!("{} --no-hosts\n", netns.name());
    assert_eq!(spool.content(), written.repeat(2));
}

/// Each of these would be another word, or none, after the field's script.
#[test]
fn legacy_refuses_words_that_the_fields_script_would_break_and_writes_nothing() {
    let host = Host::new();
    let spool = spool(&host);
    let netns = Netns::new();
    // They are what a glob would find, if it were one.
    let words = [
        "a b", "a\tb", "a'b", "a\"b", "a\\b", "*", "/et?", "/[a-z]tc",
    ];
    for word in words {
        let done = client(&spool, &netns, &["--legacy"], &["--no-hosts", word]);
        assert!(!done.status.success(), "{word:?}: {done:?}");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            said.contains("--legacy") || said.contains("legacy"),
            "{said}"
        );
        assert_eq!(spool.content(), "", "{word:?}");
    }
}

/// Whatever it does not refuse arrives as it is, or not at all where it is empty.
#[test]
fn what_legacy_accepts_arrives_through_the_fields_script_unchanged() {
    let host = Host::new();
    let spool = spool(&host);
    let netns = Netns::new();
    let words = [
        "--a=b,c:d",
        "--x=%s",
        "+5",
        "@~",
        "a=b",
        "é",
        "{a,b}",
        "$HOME",
        "$(id)",
        "`id`",
        "a;b",
        "a&b",
        "a|b",
        "a>b",
        "<a",
        "(a)",
        "!",
        "#",
        "a#b",
        "^",
        "--",
        "-n",
        "~",
        "~root",
    ];
    let (mut wanted, mut refused) = (vec![], vec![]);
    for word in words {
        let spool = Spool::new(&host, &format!("probe-{}", refused.len() + wanted.len()));
        let done = client(&spool, &netns, &["--legacy"], &[word]);
        if done.status.success() {
            wanted.push(word);
        } else {
            refused.push(word);
        }
    }
    println!("refused: {refused:?}");
    assert!(wanted.len() >= 10, "most are plain: {wanted:?}");
    let arguments: Vec<&str> = wanted.iter().copied().chain(["", "end"]).collect();
    let done = client(&spool, &netns, &["--legacy"], &arguments);
    assert!(done.status.success(), "{done:?}");
    sync(&host, &spool);
    wanted.push("end");
    assert_eq!(runs_with(&host, &netns), wanted);
}

#[test]
fn writers_of_both_kinds_at_one_lock_lose_and_mix_nothing() {
    const EACH: usize = 40;
    let host = Host::new();
    let spool = spool(&host);
    let netns = Netns::new();
    let domain = |writer: usize, n: usize| format!("--domain=w{writer}-{n}-{}", "x".repeat(200));
    thread::scope(|scope| {
        for writer in 0..6 {
            let (spool, netns) = (&spool, &netns);
            scope.spawn(move || {
                for n in 0..EACH {
                    let word = domain(writer, n);
                    if writer % 2 == 0 {
                        wrapper(spool, netns, &[&word]);
                    } else {
                        let done = client(spool, netns, &[], &[&word]);
                        assert!(done.status.success(), "{done:?}");
                    }
                }
            });
        }
    });
    let content = spool.content();
    let mut written: Vec<&str> = content.lines().collect();
    written.sort_unstable();
    let mut wanted: Vec<String> = (0..6 * EACH)
        .map(|n| format!("{} {}", netns.name(), domain(n / EACH, n % EACH)))
        .collect();
    wanted.sort_unstable();
    assert_eq!(written, wanted);
}
