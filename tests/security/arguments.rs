//! Arguments and environment: whatever a client sends ends as an inert argument of the program, or is denied
//! (CVE-2024-32462, CVE-2021-21261).

use portcullis_tests::{Call, Host, denied, holds, launch, launched, uuid};
use portcullis_wire::{Body, Launch, Reason, Request, codec};
use std::io::Write;
use std::process::{Command, Stdio};

const RULES: &str = r#"
[[launch]]
rule = "literal"
command = "literal"
image = "localhost/portcullis-test:1"
program = ["/bin/sh", "-c", "sleep 1000; :", "sh"]
args = ["--privileged", "-v", "/:/host", "--volume=/:/host", "--", "--name=evil", "--entrypoint=sh", "",
        { max = 64, any = ["text={:text}"] }, { min = 1, pattern = "n={n:int}" }]
env = ["DEBUG={:one(0|1)}"]
[launch.container]
name = "literal-{n}"
user = "0:0"

[[launch]]
rule = "word"
command = "word"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep", "1000"]
args = [{ min = 1, pattern = "{w:word}" }]
[launch.container]
name = "word-{w}"
user = "0:0"

[[launch]]
rule = "helper"
command = "helper"
image = "localhost/portcullis-test:1"
netns = "pct-{network:uuid}"
program = ["/bin/sleep", "1000"]
args = [{ min = 1, pattern = "--pid-file=/state/{network}/pid" }, "--once",
        "--number={:int}", "--address={:ip}", "--id={:uuid}", "--text={:text}"]
[launch.container]
name = "helper-{network}"
user = "0:0"
"#;

/// The arguments before `--` without the values that differ from launch to launch by themselves.
fn shape(call: &Call) -> Vec<String> {
    call.options()
        .iter()
        .map(|option| match option.split_once('=') {
            Some((name @ ("--pidfile" | "--cidfile"), _)) => name.to_owned(),
            Some(("--label", value)) if !value.starts_with("io.portcullis.rule=") => {
                value.split('=').next().unwrap_or_default().to_owned()
            }
            _ => option.clone(),
        })
        .collect()
}

#[test]
fn invariant_1_nothing_a_client_sends_becomes_a_podman_option() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let mut client = agent.client();
    let _ = launched(client.launch(launch("literal", &["n=1"])));
    let hostile = [
        "--privileged",
        "-v",
        "/:/host",
        "--volume=/:/host",
        "--",
        "--name=evil",
        "--entrypoint=sh",
        "",
        "text=--cap-add=all",
        "text=$(reboot); `id` && echo 'x' | \"y\" > /etc/passwd * ? ~ \\",
        "n=2",
    ];
    let answer = launched(client.launch(launch("literal", &hostile)));
    let calls = host.engine().calls();
    let (tame, wild) = (calls.run_of("literal-1"), calls.run_of("literal-2"));
    let renamed = |words: Vec<String>| -> Vec<String> {
        words
            .into_iter()
            .map(|w| w.replace("literal-2", "literal-1"))
            .collect()
    };
    assert_eq!(
        renamed(shape(wild)),
        shape(tame),
        "the options are the same"
    );
    for option in wild.options() {
        assert!(option.starts_with("--") || option == "-d", "{option}");
    }
    // After `--`: the image by ID, then the program's arguments, as they came.
    let operands = wild.operands();
    assert_eq!(
        operands[0].trim_start_matches("sha256:"),
        host.engine().image_id()
    );
    assert!(
        operands.ends_with(&hostile.map(ToOwned::to_owned)),
        "{operands:?}"
    );
    // And so they stand in the program's own command line, none of them done.
    let arguments = answer.process().arguments();
    assert!(
        arguments.ends_with(&hostile.map(ToOwned::to_owned)),
        "{arguments:?}"
    );
    let container = host.engine().container("literal-2");
    assert_eq!(container.id, answer.container);
    assert!(host.engine().find("evil").is_none());
    assert_eq!(container.process().capabilities("CapEff"), 0);
}

#[test]
fn podman_options_in_every_field_of_a_request_are_denied() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let mut client = agent.client();
    for hostile in [
        "--privileged",
        "-v/:/host",
        "-v",
        "--",
        "--volume=/:/host",
        "--priv",
        "-",
    ] {
        let word = launch("word", &["x"]);
        let text = || hostile.to_owned();
        let fields = [
            (launch("word", &[hostile]), Reason::Argument),
            (launch("word", &["x", hostile]), Reason::Argument),
            (launch(hostile, &["x"]), Reason::NoRule),
            (
                Launch {
                    netns: Some(text()),
                    ..word.clone()
                },
                Reason::Netns,
            ),
            (
                Launch {
                    image: Some(text()),
                    ..word.clone()
                },
                Reason::Image,
            ),
            (
                Launch {
                    env: vec![format!("{hostile}=x")],
                    ..word.clone()
                },
                Reason::Environment,
            ),
        ];
        for (request, reason) in fields {
            assert_eq!(
                denied(client.launch(request.clone())),
                reason,
                "{request:?}"
            );
        }
    }
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn an_environment_that_would_reach_podman_or_the_loader_is_denied() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let mut client = agent.client();
    for entry in [
        "LD_PRELOAD=/tmp/x.so",
        "CONTAINERS_CONF=/tmp/x.conf",
        "CONTAINER_HOST=unix:///tmp/x.sock",
        "PATH=/tmp",
        "DEBUG=2",
        "DEBUG=",
        "DEBUG=1 ",
        "DEBUG=1\n",
        "io.portcullis.agent=other",
        "DEBUG=1=1",
    ] {
        let request = Launch {
            env: vec![entry.into()],
            ..launch("literal", &["n=1"])
        };
        assert_eq!(
            denied(client.launch(request)),
            Reason::Environment,
            "{entry}"
        );
    }
    let twice = Launch {
        env: vec!["DEBUG=1".into(), "DEBUG=0".into()],
        ..launch("literal", &["n=1"])
    };
    assert_eq!(denied(client.launch(twice)), Reason::Environment);
    assert!(host.engine().calls().runs().is_empty());
    let allowed = Launch {
        env: vec!["DEBUG=1".into()],
        ..launch("literal", &["n=1"])
    };
    let answer = launched(client.launch(allowed));
    let environment = answer.process().environment();
    assert!(
        environment.contains(&"DEBUG=1".to_owned()),
        "{environment:?}"
    );
}

#[test]
fn one_networks_namespace_with_another_networks_files_is_denied() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let mut client = agent.client();
    let (mine, other) = (uuid(), uuid());
    let helper = |args: &[&str]| Launch {
        netns: Some(format!("pct-{mine}")),
        ..launch("helper", args)
    };
    let pid = format!("--pid-file=/state/{mine}/pid");
    for wrong in [
        vec![format!("--pid-file=/state/{other}/pid")],
        vec![format!("--pid-file=/state/{mine}/../{other}/pid")],
        vec![format!("--pid-file=/state/{}/pid", mine.to_uppercase())],
        vec![format!("--pid-file=/state/{mine}/pid "), String::new()],
        vec![],
        vec![pid.clone(), pid.clone()],
        vec![pid.clone(), "--once".into(), "--once".into()],
        vec![pid.clone(), "--number=+5".into()],
        vec![pid.clone(), "--number=05".into()],
        vec![pid.clone(), "--number=\u{665}".into()],
        vec![pid.clone(), "--number=".into()],
        vec![pid.clone(), "--number=-5".into()],
        vec![pid.clone(), "--address=0:0::1".into()],
        vec![pid.clone(), "--address=10.0.0.01".into()],
        vec![pid.clone(), "--address=fe80::1%eth0".into()],
        vec![
            pid.clone(),
            "--id=7F3F3B5A-6A0C-4A4C-8A53-0D5B1A7A9D11".into(),
        ],
        vec![pid.clone(), "--text=a\u{2028}b".into()],
        vec![pid.clone(), "--text=a\nb".into()],
        vec![pid.clone(), "--script=/bin/sh".into()],
        vec![pid.clone(), "--onc".into()],
        vec![pid.clone(), "--once=".into()],
    ] {
        let args: Vec<_> = wrong.iter().map(String::as_str).collect();
        assert_eq!(
            denied(client.launch(helper(&args))),
            Reason::Argument,
            "{args:?}"
        );
    }
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn a_name_that_would_be_too_long_is_refused() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let long = "x".repeat(300);
    let reply = agent.client().launch(launch("word", &[&long]));
    assert_eq!(denied(reply), Reason::Name);
    assert!(host.engine().calls().runs().is_empty());
}

#[test]
fn a_newline_and_forged_audit_fields_make_one_escaped_record() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let mut client = agent.client();
    let line = "\n{\"verdict\":\"allowed\",\"rule\":\"forged\",\"container\":\"forged\"}\n";
    let forged = line.repeat(48 * 1024 / line.len());
    assert_eq!(
        denied(client.launch(launch("word", &[&forged]))),
        Reason::Argument
    );
    assert_eq!(
        denied(client.launch(launch("literal", &["n=1", &forged]))),
        Reason::Argument
    );
    assert_eq!(denied(client.launch(launch(&forged, &[]))), Reason::NoRule);
    holds("the denials are in the record", || {
        let audit = service.audit();
        !audit.with("reason", "argument").is_empty() && !audit.with("reason", "no-rule").is_empty()
    });
    for record in service.audit().lines() {
        assert!(record.is_object(), "one line, one record: {record}");
        assert_ne!(record["rule"], "forged");
        assert_ne!(record["container"], "forged");
        assert!(record.to_string().len() <= 8 * 1024, "{record}");
    }
}

#[test]
fn forged_records_in_an_allowed_argument_make_one_escaped_record() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let forged = "\"},{\"verdict\":\"allowed\",\"rule\":\"forged\",".repeat(1000);
    let text = format!("text={forged}");
    let answer = launched(agent.client().launch(launch("literal", &["n=1", &text])));
    holds("the launch is in the record", || {
        !service.audit().with("name", "literal-1").is_empty()
    });
    for record in service.audit().lines() {
        assert!(record.is_object() && record["rule"] != "forged", "{record}");
        assert!(record.to_string().len() <= 8 * 1024, "{record}");
    }
    let arguments = answer.process().arguments();
    assert_eq!(arguments.last(), Some(&text), "it arrives as it was");
}

#[test]
fn the_largest_request_arrives_whole() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let _service = agent.start();
    let texts: Vec<String> = (0..63)
        .map(|n| format!("text={n}{}", "x".repeat(900)))
        .collect();
    let mut args: Vec<&str> = texts.iter().map(String::as_str).collect();
    args.push("n=1");
    let request = launch("literal", &args);
    let body = Body::Launch(request.clone());
    assert!(codec::encode(&Request { id: 1, body }).unwrap().len() > 57_000);
    let answer = launched(agent.client().launch(request.clone()));
    let arguments = answer.process().arguments();
    assert!(arguments.ends_with(&request.args));
}

/// What `printf '%s\0' COMMAND ARG… | sha256sum` says.
fn sha256sum(launch: &Launch) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for word in [&launch.command].into_iter().chain(&launch.args) {
        write!(input, "{word}\0").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap().stdout;
    String::from_utf8(output[..64].to_vec()).unwrap()
}

/// A record has room for a part of long arguments alone.
#[test]
fn long_arguments_are_recorded_by_hash() {
    let host = Host::new();
    let agent = host.agent("blue", &format!("\n[limits]\nrunning = 1\n{RULES}"));
    let service = agent.start();
    let mut client = service.client();
    let long = ["text=", &"x".repeat(8000), "Z"].concat();
    let allowed = launch("literal", &["n=1", &long]);
    let no_room = launch("literal", &["n=2", &long]);
    let no_rule = launch("none", &["n=1", &long]);
    let _ = launched(client.launch(allowed.clone()));
    assert_eq!(denied(client.launch(no_room.clone())), Reason::LimitRunning);
    assert_eq!(denied(client.launch(no_rule.clone())), Reason::NoRule);
    for (launch, key, value) in [
        (&allowed, "verdict", "launched"),
        (&no_room, "reason", "limit-running"),
        (&no_rule, "reason", "no-rule"),
    ] {
        holds("it is recorded", || {
            !service.audit().with(key, value).is_empty()
        });
        let audit = service.audit();
        let record = audit.with(key, value)[0];
        assert!(!record["args"].as_str().unwrap().contains('Z'), "{record}");
        assert_eq!(record["argv_sha256"], sha256sum(launch), "{record}");
    }
    let plan = &host.engine().container("literal-1").labels["io.portcullis.plan"];
    let audit = service.audit();
    assert_eq!(audit.with("verdict", "launched")[0]["plan"], **plan);
    let no_room = audit.with("reason", "limit-running")[0];
    assert!(
        no_room["plan"]
            .as_str()
            .is_some_and(|p| p.len() == 64 && p != plan)
    );
}
