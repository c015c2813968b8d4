//! What is wrong with a policy is said with its place, all of it, and with what would have been right.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use support::*;

/// A policy of many mistakes.
const WRONG: &str = r#"version = 2
detail = "cod"

[peer]
uids = [0]
gid = "0"

[limits]
launches = "600/minute"
running = 0

[vars]
state = "/srv"
netns = "x"

[[launch]]
rule = "a b"
command = "/usr/bin/x"
image = "docker-archive:/tmp/x.tar"
netns = "net-{id:uid}"
args = [
  "--one={n:int}{:int}",
  { min = 1, pattern = "--two={n:int}" },
  { max = 5, pattern = "--three={m:word}" },
  { min = 3, max = 2, pattern = "--four" },
  { patern = "--five" },
  "--six={:text", "--a", "--a", [], 7,
]
signals = ["HUP", "SIGTERM"]
[launch.container]
name = "{netns}"
user = "root"
capabilities = ["CAP_NET_ADMIN", "ALL"]
environment = ["A=1", "A=2", "no"]
mounts = [{ source = "srv/{unknown}", mode = "r" }, { source = "/{sate}", mode = "ro" }]
memory = "256MB"
pids = -1
on_conflict = "replaced"
ready = { pid_file = "/run/{m}.pid", timeout = "5 minutes" }
privilege = true

[[exec]]
rule = "e"
"#;

#[test]
fn all_problems_are_reported_each_with_its_place() {
    let problems = load(&[text("/etc/portcullis/agents/dhcp.toml", WRONG)]).unwrap_err();
    insta::assert_snapshot!(problems.to_string());
}

#[test]
fn a_problem_tells_file_line_and_column() {
    let toml = one_rule("netns = \"ä-{id:uid}\"", "name = \"c-x\"");
    let problems = load(&[text("dhcp.toml", &toml)]).unwrap_err();
    let problem = problems.iter().next().unwrap();
    assert_eq!(problem.path(), "dhcp.toml");
    assert_eq!(problem.position(), (6, 12));
}

#[test]
fn what_is_not_toml_is_a_problem_with_its_place() {
    let problems = load(&[text("dhcp.toml", "version = 1\n[peer\nuid = 0\n")]).unwrap_err();
    insta::assert_snapshot!(problems.to_string());
}

#[test]
fn a_rule_of_the_same_name_in_a_drop_in_is_shown_with_both_places() {
    let main = one_rule("", "name = \"c-x\"");
    let more = main.replace("version = 1\n", "").replace("c-x", "d-x");
    let problems = load(&[text("dhcp.toml", &main), text("dhcp.d/more.toml", &more)]).unwrap_err();
    insta::assert_snapshot!(problems.to_string());
}

#[test]
fn a_drop_in_adds_rules_and_overrides_nothing() {
    let main = one_rule("", "name = \"c-x\"");
    let more = main
        .replace("rule = \"r\"", "rule = \"s\"")
        .replace("command = \"c\"", "command = \"d\"")
        .replace("c-x", "d-x");
    let policy = load(&[text("dhcp.toml", &main), text("dhcp.d/more.toml", &more)]).unwrap();
    assert_eq!(allowed(&policy, &request("d", None, &[])).rule(), "s");
    for forbidden in [
        "[peer]\nuid = 0",
        "[limits]\nrunning = 5",
        "[vars]\na = \"b\"",
        "detail = \"code\"",
        "[allow]\nno-peer = \"x\"",
    ] {
        let files = [
            text("dhcp.toml", &main),
            text("dhcp.d/more.toml", forbidden),
        ];
        let problems = load(&files).unwrap_err();
        assert!(
            problems
                .to_string()
                .contains("a drop-in, which only adds rules and spools, has no key"),
            "{problems}"
        );
    }
}

/// The problems of one rule with these keys.
fn of(rule: &str, container: &str) -> Vec<String> {
    problems(&one_rule(rule, container))
}

const NAME: &str = "name = \"c-x\"";

#[test]
fn what_is_right_has_no_problems() {
    for rule in [
        "",
        "netns = \"q-{id:uuid}\"\nargs = [\"--a={id}\"]",
        "netns = [\"q-{id:uuid}\", \"r-{id:uuid}\"]\nargs = [\"--a={id}\"]",
        "args = [{ min = 1, pattern = [\"-a\", \"{id:int}\"] }, \"--b={id}\", [\"-c\", \"{:word}\", \"{id}\"]]",
        "args = [{ min = 1, any = [\"-a={id:int}\", [\"-b\", \"{id:int}\"]] }, \"--b={id}\"]",
        "args = [[\"--range\", \"{low:int}-{low}\"]]",
        "args = [\"{:one(a|bc)}d\", \"{{{:int}}\"]",
        "args = [\"\", \"{:uuid}{:uuid}\", \"--{:uuid}x\"]",
        "env = [\"A={:int}\"]\nsignals = [\"HUP\"]\nallow = { no-limits = \"short-lived\" }",
        "program = [\"/bin/x\", \"{agent}\", \"{rule}\", \"{command}\"]",
    ] {
        assert_eq!(of(rule, NAME), Vec::<String>::new(), "{rule}");
    }
}

#[test]
fn what_is_not_certainly_bound_may_not_be_repeated() {
    for (rule, problem) in [
        (
            "args = [\"--a={id:int}\", \"--b={id}\"]",
            "\"id\" does not certainly have a value here",
        ),
        (
            "args = [{ min = 1, max = 1, any = [\"-a={id:int}\", \"-b\"] }, \"--b={id}\"]",
            "\"id\" does not certainly have a value here",
        ),
        (
            "netns = [\"q-{id:uuid}\", \"r\"]\nargs = [\"--b={id}\"]",
            "\"id\" does not certainly have a value here",
        ),
        (
            "args = [{ min = 1, pattern = \"--a={id}\" }, { min = 1, pattern = \"--b={id:int}\" }]",
            "\"id\" has no value yet here",
        ),
        (
            "args = [[\"{id}\", \"{id:int}\"]]",
            "\"id\" has no value yet here",
        ),
        ("args = [\"--a={nobody}\"]", "nothing binds \"nobody\""),
        (
            "args = [\"--a={netns}\"]",
            "the rule has no `netns`, so it has no value",
        ),
        (
            "netns = \"{image}-x\"\nprogram = [\"/bin/{netns}\"]",
            "\"netns\" comes from a request",
        ),
        (
            "env = [\"A={id:int}\"]\nargs = [\"{id}\"]",
            "\"id\" has no value yet here",
        ),
    ] {
        assert_eq!(of(rule, NAME), [problem], "{rule}");
    }
}

#[test]
fn a_name_is_bound_in_one_place() {
    for (rule, problem) in [
        (
            "args = [\"--a={id:int}-{id:int}\"]",
            "\"id\" is bound twice",
        ),
        (
            "args = [\"--a={id:int}\", \"--b={id:int}\"]",
            "\"id\" is bound twice",
        ),
        (
            "netns = \"{id:int}\"\nargs = [\"--b={id:int}\"]",
            "\"id\" is bound twice",
        ),
        (
            "netns = [\"a-{id:int}\", \"b-{id:uuid}\"]",
            "\"id\" is of another kind in another alternative",
        ),
        (
            "netns = \"{netns:word}\"",
            "\"netns\" is bound for every rule",
        ),
        (
            "args = [\"{rule:word}\"]",
            "\"rule\" is bound for every rule",
        ),
        (
            "args = [{ max = 2, pattern = \"{id:word}\" }]",
            "an entry that may match more than once binds no names",
        ),
    ] {
        assert_eq!(of(rule, NAME), [problem], "{rule}");
    }
    let with_var = one_rule("args = [\"{v:word}\"]", NAME)
        .replace("[[launch]]", "[vars]\nv = \"x\"\n[[launch]]");
    assert_eq!(problems(&with_var), ["\"v\" is a variable of [vars]"]);
    let many: String = (0..15)
        .map(|n| format!("\"--a{n}={{n{n}:int}}\", "))
        .collect();
    assert_eq!(
        of(&format!("args = [{many}]"), NAME),
        ["a rule binds at most 14 names"]
    );
}

#[test]
fn a_value_that_runs_into_what_follows_is_refused() {
    for pattern in [
        "{:int}5",
        "{:int}{:int}",
        "{:word}.conf",
        "{:ip}:5",
        "{:hostname}-x",
        "{:text}x",
        "{:path}/x",
        "{:hex}{:uuid}",
        "{:one(a|ab)}b",
    ] {
        let found = of(&format!("args = [\"--x={pattern}\"]"), NAME);
        assert_eq!(found.len(), 1, "{pattern}: {found:?}");
        assert!(
            found[0].contains("cannot be told from what follows"),
            "{found:?}"
        );
    }
    let repeated = of("netns = \"{a:int}\"\nargs = [\"--x={:int}{a}\"]", NAME);
    assert!(
        repeated[0].contains("cannot be told from what follows"),
        "{repeated:?}"
    );
    let var = one_rule("args = [\"{:int}{v}\"]", NAME)
        .replace("[[launch]]", "[vars]\nv = \"5\"\n[[launch]]");
    assert!(problems(&var)[0].contains("cannot be told from what follows"));
}

#[test]
fn two_entries_for_one_argument_are_refused() {
    for args in [
        "\"--a\", \"--a\"",
        "\"--a={:int}\", \"--a={:word}\"",
        "[\"-m\", \"{:word}\"], [\"-m\", \"syslog\"]",
        "\"-m\", [\"-m\", \"x\"]",
        "\"{:text}\", \"{:word}\"",
        "{ max = 3, any = [\"a\", \"b\"] }, { max = 3, any = [\"c\", \"b\"] }",
    ] {
        assert_eq!(
            of(&format!("args = [{args}]"), NAME),
            ["two entries can match the same argument"],
            "{args}"
        );
    }
    for args in [
        "[\"-m\", \"a\"], [\"-m\", \"b\"]",
        "\"--a={:int}\", \"--a={:int}s\"",
        "\"{:word}\", \"--x\"",
    ] {
        assert_eq!(
            of(&format!("args = [{args}]"), NAME),
            Vec::<String>::new(),
            "{args}"
        );
    }
}

#[test]
fn text_is_refused_in_names_mounts_images_and_namespaces() {
    let args = "args = [{ min = 1, pattern = \"--x={t:text}\" }]";
    for (rule, container) in [
        (args, "name = \"c-{t}\""),
        (
            args,
            "name = \"c-x\"\nmounts = [{ source = \"/srv/{t}\", target = \"/x\", mode = \"ro\" }]",
        ),
        (
            args,
            "name = \"c-x\"\nmounts = [{ source = \"/srv\", target = \"/x/{t}\", mode = \"ro\" }]",
        ),
        (args, "name = \"c-x\"\nready = { pid_file = \"/x/{t}\" }"),
        ("netns = \"{:text}\"", NAME),
    ] {
        let found = of(rule, container);
        assert!(
            found.len() == 1 && found[0].starts_with("the kind `text` is refused in"),
            "{container}: {found:?}"
        );
    }
    let image = one_rule("", NAME).replace("localhost/i:1", "localhost/i:{:text}");
    assert!(problems(&image)[0].starts_with("the kind `text` is refused in"));
    assert_eq!(
        of(args, "name = \"c-x\"\nenvironment = [\"A={t}\"]"),
        Vec::<String>::new()
    );
}

#[test]
fn two_rules_may_not_make_containers_of_one_name() {
    let rules = |a: &str, b: &str| {
        let one = one_rule("netns = \"q-{id:uuid}\"", &format!("name = \"{a}\""));
        let two = one_rule("netns = \"r-{id:int}\"", &format!("name = \"{b}\""))
            .replace("version = 1\n", "")
            .replace("rule = \"r\"", "rule = \"s\"");
        problems(&(one + &two))
    };
    let problem = ["two rules can make containers of the same name"];
    assert_eq!(rules("c-x", "c-x"), problem);
    assert_eq!(rules("c-{id}", "c-0{id}"), Vec::<String>::new());
    assert_eq!(rules("c-{netns}", "c-{netns}"), Vec::<String>::new());
    assert_eq!(
        rules("c-{netns}", "c-q-0c6b8f0e-31a5-4a8d-9f5b-0d4f2f6a1e77"),
        problem
    );
    assert_eq!(rules("c-{image}", "c-localhost"), problem);
}

#[test]
fn a_name_begins_with_a_literal() {
    assert_eq!(
        of("netns = \"a-{:int}\"", "name = \"{netns}\""),
        ["a container's name begins with a literal"]
    );
    assert_eq!(
        of("", "name = \"\""),
        ["a container's name begins with a literal"]
    );
    for bad in ["-x", ".x", "a/b", "a b", "ä", "a:b"] {
        assert_eq!(
            of("", &format!("name = \"{bad}\"")),
            ["this never makes a container's name"],
            "{bad}"
        );
    }
}

#[test]
fn what_gives_power_comes_from_the_operator_alone() {
    let netns = "netns = \"{id:int}\"";
    for container in ["user = \"{id}:{id}\"", "user = \"{netns}\""] {
        let toml = one_rule(netns, NAME).replace("user = \"1000:1000\"", container);
        assert!(
            problems(&toml)
                .iter()
                .all(|title| title.contains("comes from a request")),
            "{container}"
        );
        assert!(!problems(&toml).is_empty());
    }
    assert!(!of(netns, "name = \"c-x\"\ncapabilities = [\"{id}\"]").is_empty());
    assert!(!of(netns, "name = \"c-x\"\ndevices = [\"/dev/{id}:/dev/x\"]").is_empty());
}

#[test]
fn container_settings_are_checked() {
    for (container, problem) in [
        (
            "capabilities = [\"NET_ADMN\"]",
            "\"NET_ADMN\" is no capability",
        ),
        ("memory = \"1\"", "`memory` is no size of at least 4 MiB"),
        ("memory = \"1KiB\"", "`memory` is no size of at least 4 MiB"),
        ("pids = 4294967296", "`pids` is out of range"),
        ("pid = \"private\"", "\"private\" is no value of `pid`"),
        ("log = \"syslog\"", "\"syslog\" is no value of `log`"),
        ("selinux = \"type:\"", "\"type:\" is no value of `selinux`"),
        (
            "selinux = \"unconfined_t\"",
            "\"unconfined_t\" is no value of `selinux`",
        ),
        (
            "apparmor = \"a=b\"",
            "\"a=b\" is no name of an AppArmor profile",
        ),
        (
            "seccomp = \"profile.json\"",
            "\"profile.json\" is no seccomp profile",
        ),
        (
            "devices = [\"/dev/../etc/shadow\"]",
            "\"/dev/../etc/shadow\" is no device",
        ),
        (
            "privileged = true\ncapabilities = [\"CHOWN\"]",
            "a privileged container has all capabilities",
        ),
        (
            "mounts = [{ source = \"srv\", mode = \"ro\" }]",
            "a mount's source is no absolute, normal path",
        ),
        (
            "mounts = [{ source = \"/srv/../x\", mode = \"ro\" }]",
            "a mount's source is no absolute, normal path",
        ),
        (
            "mounts = [{ source = \"/a:b\", mode = \"ro\" }]",
            "a mount's source is no absolute, normal path",
        ),
        (
            "mounts = [{ source = \"/\", mode = \"ro\" }]",
            "a mount's source is no absolute, normal path",
        ),
        (
            "mounts = [{ source = \"/srv\", target = \"/\", mode = \"ro\" }]",
            "a mount's target is no absolute, normal path",
        ),
        ("mounts = [{ source = \"/srv\" }]", "a mount has no `mode`"),
        (
            "ready = { pid_file = \"pid\" }",
            "`pid_file` is no absolute, normal path",
        ),
        (
            "ready = { pid_file = \"/pid\", timeout = \"0s\" }",
            "`timeout` is no length of time between 1 ms and a day",
        ),
        (
            "ready = { pid_file = \"/pid\", timeout = \"25h\" }",
            "`timeout` is no length of time between 1 ms and a day",
        ),
    ] {
        assert_eq!(
            of("", &format!("{NAME}\n{container}")),
            [problem],
            "{container}"
        );
    }
    assert_eq!(
        of("netns = \"x\"", "name = \"c-x\"\nnetwork = \"host\""),
        ["a rule has either `netns` or the host's network"]
    );
    for user in [
        "root",
        "0",
        "1000",
        "1000:",
        ":1",
        "01:1",
        "+1:1",
        "1:1:1",
        "4294967295:1",
        "1:a",
    ] {
        let toml = one_rule("", NAME).replace("1000:1000", user);
        assert_eq!(problems(&toml).len(), 1, "{user}");
    }
}

#[test]
fn no_file_is_no_policy() {
    assert!(load(&[]).is_err());
    assert!(load(&[text("x.toml", "")]).is_err());
    assert!(load(&[text("x.toml", "version = 1")]).is_ok());
}

#[test]
fn a_policy_without_rules_denies_everything() {
    let policy = loaded("version = 1");
    assert_eq!(
        denied(&policy, &dnsmasq()).reason,
        portcullis_wire::Reason::NoRule
    );
}

#[test]
fn the_generation_changes_with_every_byte_and_with_the_agent() {
    let generation = |agent: &str, path: &str, text: &str| {
        let agent = portcullis_wire::AgentName::new(agent).unwrap();
        let files = [support::text(path, text)];
        portcullis_policy::Policy::load(&agent, &files)
            .unwrap()
            .generation()
            .to_owned()
    };
    let one = generation("a", "p", "version = 1");
    assert_eq!(one.len(), 16);
    assert!(one.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    assert_eq!(one, generation("a", "p", "version = 1"));
    for other in [
        generation("b", "p", "version = 1"),
        generation("a", "q", "version = 1"),
        generation("a", "p", "version = 1\n"),
    ] {
        assert_ne!(one, other);
    }
}

#[test]
fn limits_have_defaults_and_can_be_given() {
    let default = loaded("version = 1");
    assert_eq!(default.limits(), &portcullis_policy::Limits::default());
    let given =
        loaded("version = 1\n[limits]\nrunning = 2000\nlaunches = \"5/s\"\nin_flight = 9\n");
    assert_eq!(
        (given.limits().running, given.limits().in_flight),
        (2000, 9)
    );
    assert_eq!(given.limits().launches.count, 5);
}
