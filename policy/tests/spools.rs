//! Lines of a spool: which rules they can use, and what who writes them cannot do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_policy::{Decision, Denial, LaunchPlan, Peer, Policy, decide};
use portcullis_wire::{Launch, Reason};
use proptest::prelude::*;
use support::*;

/// Two commands with a spool each, and `both` beside them, whose first rule is for the socket alone.
const SPOOLS: &str = r#"
version = 1

[peer]
uid = 5

[vars]
state = "/var/lib/x"

[[spool]]
command = "both"
dir = "{state}/{command}"

[[spool]]
command = "line"
dir = "/srv/{agent}"
lock = "/run/lock/containers/line-processes.lock"

[[launch]]
rule = "socket"
command = "both"
image = "localhost/i:1"
args = ["--socket", "--debug"]
[launch.container]
name = "socket"
user = "1000:1000"

[[launch]]
rule = "both"
command = "both"
image = "localhost/i:1"
spool = true
args = ["--both", "--debug"]
[launch.container]
name = "both"
user = "1000:1000"

[[launch]]
rule = "line"
command = "line"
image = "localhost/i:1"
spool = true
args = ["--line"]
[launch.container]
name = "line"
user = "1000:1000"

[[launch]]
rule = "no-line"
command = "no-line"
image = "localhost/i:1"
[launch.container]
name = "no-line"
user = "1000:1000"
"#;

fn spool(dir: &str) -> Peer {
    Peer::Spool { dir: dir.into() }
}

fn line(policy: &Policy, dir: &str, request: &Launch) -> Result<LaunchPlan, Denial> {
    match decide(policy, &spool(dir), request) {
        Decision::Allow(plan) => Ok(*plan),
        Decision::Deny(denial) => Err(denial),
    }
}

#[test]
fn a_spool_has_a_directory_and_a_lock_in_it_unless_the_policy_names_one() {
    let policy = loaded(SPOOLS);
    let [both, line] = policy.spools() else {
        panic!("{:?}", policy.spools());
    };
    assert_eq!((&*both.command, &*both.dir), ("both", "/var/lib/x/both"));
    assert_eq!(&*both.lock, "/var/lib/x/both/lock");
    assert_eq!(both.processes(), "/var/lib/x/both/processes");
    assert_eq!(both.timestamp(), "/var/lib/x/both/processes-timestamp");
    assert_eq!((&*line.command, &*line.dir), ("line", "/srv/dhcp"));
    assert_eq!(&*line.lock, "/run/lock/containers/line-processes.lock");
}

#[test]
fn a_line_is_launched_by_a_rule_that_takes_lines_and_by_no_other() {
    let policy = loaded(SPOOLS);
    let ask = |args: &[&str]| line(&policy, "/var/lib/x/both", &request("both", None, args));
    assert_eq!(ask(&["--both"]).unwrap().rule(), "both");
    let denial = ask(&["--socket"]).unwrap_err();
    assert_eq!(denial.reason, Reason::Argument);
    assert_eq!(denial.rule.as_deref(), Some("both"));
    // The first rule would match, and a line does not see it.
    assert_eq!(ask(&["--debug"]).unwrap().rule(), "both");
}

#[test]
fn a_line_of_another_spool_or_of_none_is_of_nobody() {
    let policy = loaded(SPOOLS);
    for (dir, command, told) in [
        ("/srv/other", "line", "the policy has no [[spool]] at"),
        ("/srv/dhcp/", "line", "the policy has no [[spool]] at"),
        ("", "line", "the policy has no [[spool]] at"),
        ("/var/lib/x/both", "line", "is for the command \"both\""),
        ("/srv/dhcp", "both", "is for the command \"line\""),
        ("/srv/dhcp", "no-line", "is for the command \"line\""),
        ("/srv/dhcp", "bash", "is for the command \"line\""),
    ] {
        let denial = line(&policy, dir, &request(command, None, &[])).unwrap_err();
        assert_eq!((denial.reason, denial.rule), (Reason::Peer, None));
        assert!(denial.message.contains(told), "{}", denial.message);
    }
}

#[test]
fn a_process_uses_rules_with_and_without_spool() {
    let policy = loaded(SPOOLS);
    let process = |uid| Peer::Process {
        uid,
        gid: 0,
        pid: 1,
    };
    for (command, argument, rule) in [
        ("both", "--socket", "socket"),
        ("both", "--both", "both"),
        ("line", "--line", "line"),
    ] {
        let request = request(command, None, &[argument]);
        let Decision::Allow(plan) = decide(&policy, &process(5), &request) else {
            panic!("denied");
        };
        assert_eq!(plan.rule(), rule);
        assert!(matches!(
            decide(&policy, &process(6), &request),
            Decision::Deny(_)
        ));
    }
}

#[test]
fn peer_neither_admits_nor_refuses_a_line() {
    for peer in ["uid = 0", "uid = 5\ngid = 5", "", "gid = [1, 2]"] {
        let policy = loaded(&SPOOLS.replace("uid = 5", peer));
        let ask = |args: &[&str]| line(&policy, "/srv/dhcp", &request("line", None, args));
        assert_eq!(ask(&["--line"]).unwrap().rule(), "line", "{peer}");
        assert_eq!(ask(&["--other"]).unwrap_err().reason, Reason::Argument);
    }
}

#[test]
fn a_line_that_names_an_image_or_environment_gets_no_further_than_a_process() {
    let policy = loaded(SPOOLS);
    let mut asked = request("line", None, &["--line"]);
    asked.image = Some("localhost/i:2".to_owned());
    let denial = line(&policy, "/srv/dhcp", &asked).unwrap_err();
    assert_eq!(denial.reason, Reason::Image);
    asked.image = None;
    asked.env = vec!["A=1".to_owned()];
    let denial = line(&policy, "/srv/dhcp", &asked).unwrap_err();
    assert_eq!(denial.reason, Reason::Environment);
}

#[test]
fn a_denied_line_is_told_of_wrappers_that_do_not_quote_where_an_argument_did_not_match() {
    const QUOTES: &str = "a wrapper that does not quote breaks an argument with a space";
    let policy = loaded(SPOOLS);
    let told = |request: &Launch| {
        let denial = line(&policy, "/srv/dhcp", request).unwrap_err();
        denial.message.contains(QUOTES)
    };
    assert!(told(&request("line", None, &["--line", "x"])));
    assert!(told(&request("line", None, &["--line", "--line"])));
    assert!(!told(&request("line", Some("net"), &["--line"])));
    let strict = loaded(&SPOOLS.replace(
        "[\"--line\"]",
        "[\"--line\", { min = 1, pattern = \"--always\" }]",
    ));
    let denial = line(&strict, "/srv/dhcp", &request("line", None, &["--line"])).unwrap_err();
    assert!(denial.message.contains("is missing"), "{}", denial.message);
    assert!(!denial.message.contains(QUOTES), "{}", denial.message);

    let process = Peer::Process {
        uid: 5,
        gid: 0,
        pid: 1,
    };
    let Decision::Deny(denial) = decide(&policy, &process, &request("line", None, &["x"])) else {
        panic!("allowed");
    };
    assert!(!denial.message.contains(QUOTES), "{}", denial.message);
}

#[test]
fn a_denied_line_is_told_of_the_rule_that_would_match_and_takes_no_lines() {
    let policy = loaded(SPOOLS);
    let ask = |args: &[&str]| line(&policy, "/var/lib/x/both", &request("both", None, args));
    let told = "; rule \"socket\" would match, but takes no lines: it has no `spool = true`";
    let message = ask(&["--socket"]).unwrap_err().message;
    assert!(message.ends_with(told), "{message}");
    let message = ask(&["--neither"]).unwrap_err().message;
    assert!(!message.contains("socket"), "{message}");
}

#[test]
fn an_explanation_of_a_line_passes_over_rules_that_take_none() {
    let policy = loaded(SPOOLS);
    let peer = spool("/var/lib/x/both");
    let explained = |args: &[&str]| {
        let request = request("both", None, args);
        let explanation = portcullis_policy::explain(&policy, &peer, &request);
        (explanation.allowed, explanation.to_string())
    };
    let (allowed, text) = explained(&["--debug"]);
    assert!(allowed, "{text}");
    let skipped = "rule socket: takes no lines: it has no `spool = true`\nrule both: matches\n";
    assert!(text.contains(skipped), "{text}");
    let (allowed, text) = explained(&["--socket"]);
    assert!(!allowed && text.starts_with("denied: argument"), "{text}");
    let request = request("line", None, &["--line"]);
    let elsewhere = portcullis_policy::explain(&policy, &peer, &request);
    assert_eq!(elsewhere.reason, Some(Reason::Peer));
    assert!(!elsewhere.allowed);
}

/// A rule of the property below: its command, whether it takes lines, and the arguments it allows.
type Drawn = (char, bool, Vec<&'static str>);

fn policy_of(rules: &[(usize, &Drawn)]) -> Policy {
    let mut toml = String::from("version = 1\n[peer]\nuid = 0\n");
    for command in ['a', 'b'] {
        if rules.iter().any(|(_, rule)| rule.0 == command && rule.1) {
            toml += &format!("[[spool]]\ncommand = \"{command}\"\ndir = \"/srv/{command}\"\n");
        }
    }
    for (number, (command, spool, args)) in rules {
        toml += &format!(
            "[[launch]]\nrule = \"{number}\"\ncommand = \"{command}\"\nimage = \"localhost/i:1\"\nspool = {spool}\n\
             args = {args:?}\n[launch.container]\nname = \"c-{number}\"\nuser = \"1:1\"\n"
        );
    }
    loaded(&toml)
}

fn some_args() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(vec!["-x", "-y", "-z"], 0..=3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A policy with all its rules allows a line what it would allow a process if it had only those with `spool = true`.
    #[test]
    fn what_a_line_is_allowed_a_rule_with_spool_allowed(
        rules in prop::collection::vec((prop::sample::select(vec!['a', 'b']), any::<bool>(), some_args()), 1..6),
        dir in prop::sample::select(vec!["/srv/a", "/srv/b", "/srv", "/srv/c"]),
        command in prop::sample::select(vec!["a", "b"]),
        args in some_args(),
    ) {
        let numbered: Vec<_> = rules.iter().enumerate().collect();
        let open: Vec<_> = numbered.iter().filter(|(_, rule)| rule.1).copied().collect();
        let (policy, open) = (policy_of(&numbered), policy_of(&open));
        let request = request(command, None, &args);
        let decided = line(&policy, dir, &request);
        let expected = match decide(&open, &ROOT, &request) {
            Decision::Allow(plan) if dir == format!("/srv/{command}") => Some(plan.rule().to_owned()),
            _ => None,
        };
        let explained = portcullis_policy::explain(&policy, &spool(dir), &request);
        prop_assert_eq!(explained.allowed, decided.is_ok());
        if let Ok(plan) = &decided {
            let (of, takes_lines, _) = &rules[plan.rule().parse::<usize>().unwrap()];
            prop_assert!(takes_lines);
            prop_assert_eq!(of.to_string(), command);
        }
        prop_assert_eq!(decided.ok().map(|plan| plan.rule().to_owned()), expected);
    }
}

/// Spools with every mistake there is.
const WRONG: &str = r#"version = 1

[[spool]]
dirr = "/srv/a"
lock = 7

[[spool]]
command = "r"
dir = "srv/{rule}"
lock = "/run/../x"

[[spool]]
command = "r"
dir = "srv/{agent}/"

[[spool]]
command = "r"
dir = "/srv/r"
lock = "/srv/r/processes"

[[spool]]
command = "r"
dir = "/srv/r"

[[spool]]
command = "s"
dir = "/srv/r/{command}"
lock = "/srv"

[[spool]]
command = "t"
dir = "/run/{n:word}"
lock = "/srv/r/processes-timestamp"

[[launch]]
rule = "r"
command = "r"
image = "localhost/i:1"
spool = true
[launch.container]
name = "r"
user = "1:1"

[[launch]]
rule = "u"
command = "u"
image = "localhost/i:1"
spool = true
[launch.container]
name = "u"
user = "1:1"

[[launch]]
rule = "s"
command = "s"
image = "localhost/i:1"
spool = "yes"
[launch.container]
name = "s"
user = "1:1"
"#;

#[test]
fn all_that_is_wrong_with_spools_is_reported_with_its_place() {
    let problems = load(&[text("/etc/portcullis/agents/dhcp.toml", WRONG)]).unwrap_err();
    insta::assert_snapshot!(problems.to_string());
}

/// The problems of one spool with these keys, for a rule that takes its lines.
fn of(spool: &str) -> Vec<String> {
    problems(&format!(
        "{}\n[[spool]]\ncommand = \"c\"\n{spool}\n",
        one_rule("spool = true", "name = \"c-x\"")
    ))
}

#[test]
fn a_path_is_absolute_and_normal_and_the_lock_is_no_file_or_directory_of_a_spool() {
    const DIR: &str = "dir = \"/srv/s\"";
    for good in [
        DIR.to_owned(),
        "dir = \"/srv/{agent}-{command}\"".to_owned(),
        "dir = \"/srv/a b%i{{\"".to_owned(),
        format!("{DIR}\nlock = \"/srv/s/lock\""),
        format!("{DIR}\nlock = \"/srv/lock\""),
        format!("{DIR}\nlock = \"/srv/s/processes.lock\""),
        format!("{DIR}\nlock = \"/srv/s2\""),
    ] {
        assert_eq!(of(&good), Vec::<String>::new(), "{good}");
    }
    for path in [
        "", "/", "srv", "/srv/", "/srv//s", "/srv/./s", "/a/../s", "/a\\nb",
    ] {
        assert_eq!(of(&format!("dir = \"{path}\"")).len(), 1, "{path}");
        assert_eq!(of(&format!("{DIR}\nlock = \"{path}\"")).len(), 1, "{path}");
    }
    for lock in [
        "/srv/s/processes",
        "/srv/s/processes-timestamp",
        "/srv/s/processes/lock",
        "/srv/s",
        "/srv",
    ] {
        assert_eq!(of(&format!("{DIR}\nlock = \"{lock}\"")).len(), 1, "{lock}");
    }
}

#[test]
fn two_spools_may_have_one_command_or_one_lock_and_never_one_directory() {
    let two = |other: &str| {
        of(&format!(
            "dir = \"/srv/s\"\nlock = \"/run/l\"\n[[spool]]\ncommand = \"c\"\n{other}"
        ))
    };
    let none = Vec::<String>::new();
    assert_eq!(two("dir = \"/srv/t\"\nlock = \"/run/l\""), none);
    assert_eq!(two("dir = \"/srv/ss\""), none);
    assert_eq!(
        two("dir = \"/srv/s\""),
        ["two spools have the directory \"/srv/s\""]
    );
    for dir in ["/srv/s/t", "/srv"] {
        assert_eq!(
            two(&format!("dir = \"{dir}\"")),
            ["the directory of one spool is beneath that of another"]
        );
    }
    // Another's files are no lock either.
    assert_eq!(
        two("dir = \"/srv/t\"\nlock = \"/srv/s/processes\"").len(),
        1
    );
}

#[test]
fn a_drop_in_adds_spools_and_rules_that_take_lines() {
    let main = one_rule("spool = true", "name = \"c-x\"")
        + "[[spool]]\ncommand = \"c\"\ndir = \"/srv/{state}\"\n[vars]\nstate = \"c\"\n";
    let more = "[[spool]]\ncommand = \"c\"\ndir = \"/srv/{state}2\"\n";
    let policy = load(&[text("dhcp.toml", &main), text("dhcp.d/more.toml", more)]).unwrap();
    let dirs: Vec<&str> = policy.spools().iter().map(|spool| &*spool.dir).collect();
    assert_eq!(dirs, ["/srv/c", "/srv/c2"]);
    for dir in dirs {
        assert!(line(&policy, dir, &ask(&[])).is_ok());
    }
    let again = more.replace('2', "");
    let problems = load(&[text("dhcp.toml", &main), text("dhcp.d/more.toml", &again)]).unwrap_err();
    let problem = problems.iter().next().unwrap();
    assert_eq!(problem.path(), "dhcp.d/more.toml");
    assert!(problem.to_string().contains("dhcp.toml:"), "{problem}");
}

/// The host's own links are the only two spellings of one place that the launcher takes for the same.
#[test]
fn host_link_to_another_spool_is_shared() {
    let policy = |dir: &str| loaded(&SPOOLS.replace("/srv/{agent}", dir));
    let one = policy("/run/lock/spool");
    assert_eq!(one.shared_dirs(&policy("/run/lock/other")).len(), 1);
    for same in ["/run/lock/spool", "/var/lock/spool", "/var/run/lock/spool"] {
        let shared = one.shared_dirs(&policy(same));
        assert!(
            shared.iter().any(|(_, theirs)| theirs == same),
            "{shared:?}"
        );
    }
}
