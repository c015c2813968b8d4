//! Whose container it is: only what carries our label and is in our records is ours.

use portcullis_tests::{Agent, Host, IMAGE, denied, failed, holds, launch, launched};
use portcullis_wire::{Reason, Reply};
use std::process::Command;

const RULES: &str = r#"
[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{ min = 1, pattern = "{seconds:int}" }]
[launch.container]
name = "sleep-{seconds}"
user = "0:0"
on_conflict = "replace"

[[launch]]
rule = "missing"
command = "missing"
image = "localhost/not-there:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "missing"
user = "0:0"

[[launch]]
rule = "digest"
command = "digest"
image = "localhost/portcullis-test@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "digest"
user = "0:0"

[[launch]]
rule = "choice"
command = "choice"
image = ["localhost/portcullis-test:1", "{:path}", "{:word}:{:path}"]
program = ["/bin/sleep", "1000"]
[launch.container]
name = "choice"
user = "0:0"

[[launch]]
rule = "shared"
command = "shared"
image = "localhost/shared:1"
program = ["/bin/sleep", "1000"]
args = [{ min = 1, pattern = "{n:int}" }]
[launch.container]
name = "shared-{n}"
user = "0:0"

[[launch]]
rule = "labelled"
command = "labelled"
image = "localhost/labelled:1"
program = ["/bin/sleep", "1000"]
[launch.container]
name = "labelled"
user = "0:0"
"#;

/// An image that another store has.
const SHARED: &str = "localhost/shared:1";

/// The reason of a refusal, whether the policy or the launch could not do it.
#[track_caller]
fn reason(reply: Reply) -> Reason {
    match reply {
        Reply::Failed(failure) => failure.reason,
        other => denied(other),
    }
}

/// Somebody else's container of that name is there: the launch is refused and the container is as it was.
#[track_caller]
fn left_alone(agent: &Agent, options: &[&str], image: &str, command: &[&str]) {
    let engine = agent.host().engine();
    let fixed = [
        "run",
        "--detach",
        "--name=sleep-100",
        "--network=none",
        "--pull=never",
    ];
    let arguments = [&fixed[..], options, &[image], command].concat();
    engine.must(&arguments);
    if command == ["/bin/true"] {
        holds("it has ended", || {
            engine.container("sleep-100").state == "exited"
        });
    }
    let before = engine.container("sleep-100");
    let service = agent.start();
    for _ in 0..2 {
        // Patiently: what an earlier life knew of the name may have to be looked at first.
        let reply = service
            .client()
            .launch_patiently(&launch("sleep", &["100"]));
        assert_eq!(reason(reply), Reason::Name);
    }
    let after = engine.container("sleep-100");
    assert_eq!(
        (&before.id, &before.state, before.pid),
        (&after.id, &after.state, after.pid)
    );
    // Others are served.
    let _ = launched(service.client().launch(launch("sleep", &["200"])));
    assert!(service.stop().success());
    let still = engine.container("sleep-100");
    assert_eq!((before.id, before.pid), (still.id, still.pid));
}

#[test]
fn invariant_9_somebody_elses_container_that_holds_the_name_is_left_alone() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    left_alone(&agent, &[], IMAGE, &["/bin/sleep", "1000"]);
}

#[test]
fn invariant_9_an_ended_container_of_somebody_else_is_left_alone() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    left_alone(&agent, &[], IMAGE, &["/bin/true"]);
}

#[test]
fn invariant_9_a_container_with_our_labels_that_is_not_in_our_records_is_left_alone() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let labels = [
        "--label=io.portcullis.agent=blue",
        "--label=io.portcullis.rule=sleep",
        "--label=io.portcullis.launch=00000000000000000000000000000000",
    ];
    left_alone(&agent, &labels, IMAGE, &["/bin/sleep", "1000"]);
}

#[test]
fn invariant_9_a_container_whose_image_claims_to_be_ours_is_left_alone() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    host.engine().import_with(
        &host.image_file(),
        "localhost/claims:1",
        &[
            "LABEL io.portcullis.agent=blue",
            "LABEL io.portcullis.rule=sleep",
        ],
    );
    left_alone(&agent, &[], "localhost/claims:1", &["/bin/sleep", "1000"]);
}

#[test]
fn invariant_9_a_container_that_took_a_name_of_ours_while_the_launcher_was_away_is_left_alone() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let ours = launched(service.client().launch(launch("sleep", &["100"])));
    service.kill();
    host.engine()
        .must(&["rm", "--force", "--time=0", &ours.container]);
    let labels = [
        "--label=io.portcullis.agent=blue",
        "--label=io.portcullis.rule=sleep",
    ];
    left_alone(&agent, &labels, IMAGE, &["/bin/sleep", "1000"]);
}

#[test]
fn an_images_labels_do_not_override_ours() {
    let host = Host::new();
    host.engine().import_with(
        &host.image_file(),
        "localhost/labelled:1",
        &[
            "LABEL io.portcullis.agent=other",
            "LABEL io.portcullis.rule=other",
        ],
    );
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let _ = launched(service.client().launch(launch("labelled", &[])));
    let container = host.engine().container("labelled");
    assert_eq!(container.labels["io.portcullis.agent"], "blue");
    assert_eq!(container.labels["io.portcullis.rule"], "labelled");
}

#[test]
fn an_images_entrypoint_does_not_run_before_the_rules_program() {
    let host = Host::new();
    host.engine().import_with(
        &host.image_file(),
        "localhost/labelled:1",
        &["ENTRYPOINT [\"/bin/false\"]"],
    );
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("labelled", &[])));
    assert_eq!(answer.process().arguments(), ["/bin/sleep", "1000"]);
}

#[test]
fn another_agents_container_is_left_alone() {
    let host = Host::new();
    let (blue, green) = (host.agent("blue", RULES), host.agent("green", RULES));
    let (first, second) = (blue.start(), green.start());
    let answer = launched(first.client().launch(launch("sleep", &["100"])));
    assert_eq!(
        reason(second.client().launch(launch("sleep", &["100"]))),
        Reason::Name
    );
    let container = host.engine().container("sleep-100");
    assert_eq!(
        (container.id, container.pid),
        (answer.container, answer.pid)
    );
}

#[track_caller]
fn nothing_is_run_or_fetched(host: &Host) {
    for call in host.engine().calls().all() {
        for word in ["run", "create", "pull", "load", "import"] {
            assert_ne!(call.subcommand(), word, "{call:?}");
        }
    }
    assert!(host.engine().containers().is_empty());
}

#[test]
fn an_image_on_the_host_with_another_digest_is_refused_and_nothing_is_pulled() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let reply = service.client().launch(launch("digest", &[]));
    assert_eq!(reason(reply), Reason::Image);
    nothing_is_run_or_fetched(&host);
    let _ = launched(service.client().launch(launch("sleep", &["100"])));
}

#[test]
fn a_short_name_is_refused_though_an_image_of_that_name_is_on_the_host() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let (_, short) = IMAGE.split_once('/').unwrap();
    host.engine().must(&["image", "exists", short]);
    for image in [short, "portcullis-test", "portcullis-test:latest"] {
        let mut request = launch("sleep", &["100"]);
        request.image = Some(image.to_owned());
        let reply = service.client().launch(request);
        assert_eq!(denied(reply), Reason::Image, "{image}");
    }
    nothing_is_run_or_fetched(&host);
}

#[test]
fn a_transport_is_refused_even_where_the_pattern_would_take_it() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let file = host.image_file().display().to_string();
    let archive = |transport: &str| format!("{transport}:{file}");
    for image in [
        &archive("docker-archive"),
        &archive("oci-archive"),
        &archive("dir"),
        &file,
    ] {
        let mut request = launch("choice", &[]);
        request.image = Some(image.to_owned());
        let reply = service.client().launch(request);
        assert_eq!(denied(reply), Reason::Image, "{image}");
        nothing_is_run_or_fetched(&host);
    }
    let mut request = launch("choice", &[]);
    request.image = Some(IMAGE.to_owned());
    let _ = launched(service.client().launch(request));
}

#[test]
fn a_missing_image_is_a_clear_error_and_nothing_is_pulled() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let reply = service.client().launch(launch("missing", &[]));
    assert_eq!(reason(reply), Reason::Image);
    nothing_is_run_or_fetched(&host);
    let _ = launched(service.client().launch(launch("sleep", &["100"])));
}

#[test]
fn the_audit_record_names_the_image_that_ran() {
    let host = Host::new();
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let answer = launched(service.client().launch(launch("sleep", &["100"])));
    let ran = host
        .engine()
        .must(&["inspect", "--format={{.Image}}", &answer.container]);
    assert_eq!(ran.trim(), host.engine().image_id());
    holds("the record", || {
        let audit = service.audit();
        audit.with("name", "sleep-100").iter().any(|record| {
            record.to_string().contains(ran.trim())
                && record.to_string().contains(&answer.container)
        })
    });
}

/// The launcher watches the list of one store alone.
#[test]
fn moved_tag_of_additional_store_is_noticed() {
    let host = Host::new();
    let engine = host.engine();
    let [root, runroot] = ["more", "more-run"].map(|dir| host.path().join(dir));
    let stores = [
        format!("--root={}", root.display()),
        format!("--runroot={}", runroot.display()),
    ];
    let import = |content: &str| {
        let done = Command::new("/usr/bin/podman")
            .args(&stores)
            .envs(engine.environment())
            .args(["import", "--quiet"])
            .arg(format!("--change=LABEL content={content}"))
            .arg(host.image_file())
            .arg(SHARED)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        let id = String::from_utf8(done.stdout).unwrap();
        id.trim().trim_start_matches("sha256:").to_owned()
    };
    let first = import("first");
    let agent = host.agent("blue", RULES);
    let service = agent.start();
    let mut client = service.client();
    // The list of the only store is known and watched before there is another one.
    for seconds in ["100", "101"] {
        let _ = launched(client.launch(launch("sleep", &[seconds])));
    }
    let calls = engine.calls();
    let asked = calls
        .all()
        .iter()
        .filter(|c| c.arguments.iter().any(|a| a == IMAGE));
    assert_eq!(asked.count(), 1, "what podman said of the image is kept");
    engine.add_image_store(&root);
    let _ = launched(client.launch(launch("shared", &["1"])));
    let second = import("second");
    let _ = launched(client.launch(launch("shared", &["2"])));
    for (name, image) in [("shared-1", first), ("shared-2", second)] {
        let ran = engine.must(&["inspect", "--format={{.Image}}", name]);
        assert_eq!(ran.trim(), image, "{name}");
    }
}

#[test]
fn podmans_own_words_are_not_for_the_client() {
    let host = Host::new();
    let rules = RULES.replace("/bin/sleep\"]\nargs", "/no/such/program\"]\nargs");
    let agent = host.agent("blue", &rules);
    let service = agent.start();
    let failure = failed(service.client().launch(launch("sleep", &["100"])));
    assert_eq!(failure.reason, Reason::Engine);
    let said = format!("{} {}", failure.message, failure.output);
    for word in [
        "runc",
        "crun",
        "OCI",
        "stat ",
        host.path().to_str().unwrap(),
    ] {
        assert!(!said.contains(word), "{said}");
    }
    holds("nothing is left of it", || {
        host.engine().containers().is_empty()
    });
}
