//! Security facts, each named after the attack: arguments, environment, names, namespaces, images, peers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_policy::{Decision, Peer, decide};
use portcullis_wire::{Launch, Reason};
use support::*;

fn reason(request: &Launch) -> Reason {
    denied(neutron(), request).reason
}

#[test]
fn a_podman_option_as_an_argument_is_denied() {
    for argument in [
        "--privileged",
        "-v",
        "/:/host",
        "-v=/:/host",
        "--volume=/:/host",
        "--",
        "--name=x",
        "--cap-add=all",
        "--priv",
        "--rm",
    ] {
        assert_eq!(
            reason(&dnsmasq_with(argument)),
            Reason::Argument,
            "{argument}"
        );
    }
}

#[test]
fn a_podman_option_where_a_value_was_allowed_stays_an_argument_of_the_program() {
    let policy = rule("args = [\"--name={:text}\", [\"-o\", \"{:text}\"], \"{:word}\"]");
    let plan = allowed(
        &policy,
        &ask(&["--name=--privileged", "-o", "x --privileged", "y"]),
    );
    let podman = podman(&plan);
    let end = podman.iter().position(|word| word == "--").unwrap();
    assert!(
        !podman[..end]
            .iter()
            .any(|word| word.contains("privileged=") || word == "--privileged")
    );
    assert_eq!(
        podman[end + 1..],
        [
            "IMAGE_ID",
            "--name=--privileged",
            "-o",
            "x --privileged",
            "y"
        ]
    );
    assert_eq!(
        denied(&policy, &ask(&["-o", "--privileged"])).reason,
        Reason::Argument
    );
}

#[test]
fn a_podman_option_in_every_other_field_is_denied() {
    for hostile in [
        "--privileged",
        "-v",
        "--",
        "--network=host",
        "-",
        "-v/:/host",
    ] {
        let mut request = dnsmasq();
        request.command = hostile.to_owned();
        assert_eq!(reason(&request), Reason::NoRule, "{hostile}");
        let mut request = dnsmasq();
        request.netns = Some(hostile.to_owned());
        assert_eq!(reason(&request), Reason::Netns, "{hostile}");
        let mut request = dnsmasq();
        request.image = Some(hostile.to_owned());
        assert_eq!(reason(&request), Reason::Image, "{hostile}");
        let mut request = dnsmasq();
        request.env = vec![format!("{hostile}=1")];
        assert_eq!(reason(&request), Reason::Environment, "{hostile}");
    }
}

#[test]
fn dnsmasqs_script_option_and_its_abbreviations_are_denied() {
    for argument in [
        "--dhcp-script=/tmp/x",
        "--dhcp-scrip=/tmp/x",
        "--dhcp-s=/tmp/x",
        "-6",
        "-6/tmp/x",
        "--dhcp-luascript=/x",
        "--dhcp-hostsdir=/x",
        "--conf-file=/tmp/x",
        "--conf-fil=/tmp/x",
        "--conf-dir=/tmp",
        "-C",
        "-C/tmp/x",
        "-7/tmp",
        "--user=root",
        "-u",
        "--enable-tftp",
        "--tftp-root=/",
        "--servers-file=/etc/shadow",
    ] {
        assert_eq!(
            reason(&dnsmasq_with(argument)),
            Reason::Argument,
            "{argument}"
        );
    }
}

#[test]
fn network_as_namespace_with_network_bs_files_is_denied() {
    let args = dnsmasq_args(B);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let request = request("dnsmasq", Some(&format!("qdhcp-{A}")), &args);
    let denial = denied(neutron(), &request);
    assert_eq!(denial.reason, Reason::Argument);
    assert_eq!(denial.rule.as_deref(), Some("dnsmasq"));
    assert!(
        denial.message.contains(&format!("network = \"{A}\"")),
        "{}",
        denial.message
    );
}

#[test]
fn one_file_of_network_b_among_network_as_is_denied() {
    for at in 0..dnsmasq().args.len() {
        let mut request = dnsmasq();
        if request.args[at].contains(A) {
            request.args[at] = request.args[at].replace(A, B);
            assert_eq!(reason(&request), Reason::Argument, "{}", request.args[at]);
        }
    }
}

#[test]
fn a_segments_files_may_not_be_mixed_with_anothers() {
    let mut request = dnsmasq();
    for arg in &mut request.args {
        *arg = arg.replace("/dhcp/", "/dhcp/1001/");
    }
    assert_eq!(allowed(neutron(), &request).rule(), "dnsmasq-segment");
    for at in 0..request.args.len() {
        let mut mixed = request.clone();
        if mixed.args[at].contains("/1001/") {
            mixed.args[at] = mixed.args[at].replace("/1001/", "/1002/");
            assert_eq!(reason(&mixed), Reason::Argument, "{}", mixed.args[at]);
        }
    }
}

#[test]
fn a_decoy_in_another_arguments_value_binds_nothing_else_than_what_runs() {
    let policy = loaded(&one_rule(
        "args = [{ min = 1, pattern = [\"id\", \"{id:word}\"] }, [\"other\", \"{:word}\"]]",
        "name = \"c-{id}\"",
    ));
    assert_eq!(
        allowed(&policy, &ask(&["other", "x", "id", "y"])).name(),
        "c-y"
    );
    // The first "id" is a value; taken for the option it would bind "id", and the container would not be y's.
    assert_eq!(
        denied(&policy, &ask(&["other", "id", "id", "y"])).reason,
        Reason::Argument
    );
}

#[test]
fn the_same_option_twice_is_denied() {
    for argument in dnsmasq_args(A) {
        if !argument.starts_with("--dhcp-range") && !argument.starts_with("--server") {
            let denial = denied(neutron(), &dnsmasq_with(&argument));
            assert_eq!(denial.reason, Reason::Argument, "{argument}");
            assert!(
                denial.message.contains("once at most"),
                "{}",
                denial.message
            );
        }
    }
}

#[test]
fn more_of_an_option_than_its_count_is_denied() {
    let mut request = dnsmasq();
    for _ in 0..16 {
        request.args.push("--server=10.0.0.1".to_owned());
    }
    allowed(neutron(), &request);
    request.args.push("--server=10.0.0.1".to_owned());
    assert_eq!(reason(&request), Reason::Argument);
}

#[test]
fn a_required_argument_left_out_is_denied() {
    for option in ["--pid-file", "--dhcp-leasefile", "--conf-file"] {
        let mut request = dnsmasq();
        request.args.retain(|arg| !arg.starts_with(option));
        let denial = denied(neutron(), &request);
        assert_eq!(denial.reason, Reason::Argument);
        assert!(denial.message.contains("is missing"), "{}", denial.message);
        assert!(denial.message.contains(option), "{}", denial.message);
    }
}

#[test]
fn another_spelling_of_a_value_is_denied() {
    for argument in [
        // Upper-case uuids.
        "--dhcp-range=set:subnet-B1946AC9-2d5f-4b3e-8c7a-5d2f9e0c4a11,10.0.0.0,static,255.255.255.0,86400s",
        // IPv6 in other spellings.
        "--server=2001:DB8::1",
        "--server=2001:0db8::1",
        "--server=2001:db8:0:0:0:0:0:1",
        "--server=::ffff:102:304",
        // Numbers with a sign, a leading zero, other digits, a space.
        "--dhcp-option-force=option:T1,+5s",
        "--dhcp-option-force=option:T1,05s",
        "--dhcp-option-force=option:T1,٥s",
        "--dhcp-option-force=option:T1,-5s",
        "--dhcp-option-force=option:T1, 5s",
        "--dhcp-option-force=option:T1,５s",
        // Out of range.
        "--server=10.0.0.1#65536",
        "--server=10.0.0.1#0",
        "--server=10.0.0.256",
        "--server=010.0.0.1",
        // What a person does not see.
        "--txt-record=a\u{2028}b",
        "--txt-record=a\nb",
        "--txt-record=\u{202e}x",
        "--txt-record=a\u{200b}",
        "--txt-record=",
        "--domain=-x",
        "--domain=a..b",
        "--no-hosts\n",
        " --no-hosts",
        "--no-hosts ",
        "--log-queries=extra",
    ] {
        assert_eq!(
            reason(&dnsmasq_with(argument)),
            Reason::Argument,
            "{argument:?}"
        );
    }
}

#[test]
fn a_path_with_dots_in_it_is_denied() {
    for argument in [
        format!("--log-facility=/var/lib/neutron/log/{A}/../dhcp_dns_log"),
        format!("--log-facility=/var/lib/neutron/log/../log/{A}/dhcp_dns_log"),
        format!("--log-facility=/var/lib/neutron/log//{A}/dhcp_dns_log"),
    ] {
        assert_eq!(
            reason(&dnsmasq_with(&argument)),
            Reason::Argument,
            "{argument}"
        );
    }
}

#[test]
fn shell_metacharacters_arrive_as_they_are() {
    let policy = rule("args = [{ max = 9, pattern = \"--x={:text}\" }]");
    let words = [
        "--x=$(id)",
        "--x=`id`",
        "--x=;reboot",
        "--x=a b\\ c",
        "--x='\"",
        "--x=*",
        "--x=${PATH}",
        "--x=%s%n",
    ];
    let podman = podman(&allowed(&policy, &ask(&words)));
    assert!(podman.ends_with(&words.map(str::to_owned)));
}

#[test]
fn an_empty_argument_survives_where_the_rule_has_it_and_is_denied_elsewhere() {
    let mut request = dnsmasq();
    request.args.insert(2, String::new());
    let podman = podman(&allowed(neutron(), &request));
    assert!(podman.contains(&String::new()));
    let haproxy = support::request("haproxy", Some(&format!("qdhcp-{A}")), &["", "-f"]);
    assert_eq!(reason(&haproxy), Reason::Argument);
}

#[test]
fn environment_that_a_loader_or_podman_reads_is_denied() {
    let policy = rule("env = [\"DEBUG={:one(0|1)}\"]");
    for entry in [
        "LD_PRELOAD=/x.so",
        "CONTAINERS_CONF=/x",
        "CONTAINER_HOST=unix:///x",
        "PATH=/tmp",
        "LD_LIBRARY_PATH=/tmp",
        "DEBUG=2",
        "DEBUG=",
        "DEBUG",
        "debug=1",
        "DEBUG=1\nPATH=/tmp",
        "io.portcullis.agent=other",
        "DEBUG =1",
    ] {
        let mut request = ask(&[]);
        request.env = vec![entry.to_owned()];
        assert_eq!(
            denied(&policy, &request).reason,
            Reason::Environment,
            "{entry}"
        );
    }
    let mut request = ask(&[]);
    request.env = vec!["DEBUG=1".to_owned()];
    assert!(podman(&allowed(&policy, &request)).contains(&"--env=DEBUG=1".to_owned()));
    request.env = vec!["DEBUG=0".to_owned(), "DEBUG=1".to_owned()];
    assert_eq!(denied(&policy, &request).reason, Reason::Environment);
}

#[test]
fn one_environment_name_twice_is_denied_also_where_the_entry_may_repeat() {
    let policy = rule("env = [{ max = 3, any = [\"A={:int}\", \"B={:int}\"] }]");
    let mut request = ask(&[]);
    request.env = vec!["A=1".to_owned(), "B=2".to_owned()];
    allowed(&policy, &request);
    request.env = vec!["A=1".to_owned(), "A=2".to_owned()];
    assert_eq!(denied(&policy, &request).reason, Reason::Environment);
}

#[test]
fn a_rule_without_environment_takes_none() {
    let mut request = dnsmasq();
    request.env = vec!["DEBUG=1".to_owned()];
    assert_eq!(reason(&request), Reason::Environment);
}

#[test]
fn a_namespace_that_is_no_plain_name_is_denied() {
    let policy = loaded(&one_rule(
        "netns = [\"a{:path}\", \"{:hostname}\", \"{:word}:x\", \"x-{:word},y\", \"-{:word}\", \"..\", \".\", \"x\\n\"]",
        "name = \"c-x\"",
    ));
    let mut request = ask(&[]);
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "a/proc/1/ns/net",
        "/proc/1/ns/net",
        "../x",
        "-x",
        "ns:x",
        "ns:/proc/1/ns/net",
        "b:x",
        "x-b,y",
        "a\nb",
        "x\n",
    ] {
        request.netns = Some(bad.to_owned());
        assert_eq!(denied(&policy, &request).reason, Reason::Netns, "{bad}");
    }
    request.netns = Some("x".repeat(256));
    assert_eq!(denied(&policy, &request).reason, Reason::Netns);
    request.netns = None;
    assert_eq!(denied(&policy, &request).reason, Reason::Netns);
    request.netns = Some("qdhcp-x".to_owned());
    allowed(&policy, &request);
}

#[test]
fn a_namespace_for_a_rule_that_is_for_none_is_denied() {
    let mut request = ask(&[]);
    request.netns = Some("x".to_owned());
    assert_eq!(denied(&rule(""), &request).reason, Reason::Netns);
}

#[test]
fn a_foreign_namespace_is_denied() {
    let mut request = dnsmasq();
    for other in [
        format!("qrouter-{A}"),
        format!("qdhcp-{B}"),
        "qdhcp-".to_owned(),
        format!("qdhcp-{A}x"),
        format!("xqdhcp-{A}"),
    ] {
        request.netns = Some(other.clone());
        let reason = reason(&request);
        assert!(
            matches!(reason, Reason::Netns | Reason::Argument),
            "{other}"
        );
    }
}

fn named(name: &str, kind: &str) -> (portcullis_policy::Policy, impl Fn(&str) -> Launch) {
    let policy = loaded(&one_rule(
        &format!("args = [{{ min = 1, pattern = \"--id={{id:{kind}}}\" }}]"),
        &format!("name = \"{name}\""),
    ));
    (policy, |id: &str| ask(&[&format!("--id={id}")]))
}

#[test]
fn a_300_byte_name_is_denied() {
    let (policy, id) = named("c-{id}", "word");
    assert_eq!(allowed(&policy, &id(&"x".repeat(126))).name().len(), 128);
    for length in [127, 300] {
        assert_eq!(
            denied(&policy, &id(&"x".repeat(length))).reason,
            Reason::Name
        );
    }
}

#[test]
fn a_name_with_what_no_name_has_is_denied() {
    let (policy, id) = named("c-{id}", "ipv6");
    assert_eq!(denied(&policy, &id("fe80::1")).reason, Reason::Name);
    let (policy, id) = named("c-{id}", "cidr");
    assert_eq!(denied(&policy, &id("10.0.0.0/8")).reason, Reason::Name);
}

#[test]
fn a_newline_in_a_name_cannot_be_asked_for() {
    let (policy, id) = named("c-{id}", "word");
    assert_eq!(denied(&policy, &id("a\nb")).reason, Reason::Argument);
}

#[test]
fn a_mount_that_podman_would_take_apart_is_denied() {
    let policy = loaded(&one_rule(
        "args = [{ min = 1, pattern = \"--dir={dir:path}\" }]",
        "name = \"c-x\"\nmounts = [{ source = \"/srv{dir}\", target = \"/data\", mode = \"rw\" }]",
    ));
    allowed(&policy, &ask(&["--dir=/a"]));
    for bad in ["/a:/etc", "/a:rw", "/a,z", "/a:/b:exec"] {
        assert_eq!(
            denied(&policy, &ask(&[&format!("--dir={bad}")])).reason,
            Reason::Mount,
            "{bad}"
        );
    }
    for bad in ["/a/../../etc", "/..", "/a/", "/", "a"] {
        assert_eq!(
            denied(&policy, &ask(&[&format!("--dir={bad}")])).reason,
            Reason::Argument,
            "{bad}"
        );
    }
}

#[test]
fn a_captured_path_becomes_a_source_beneath_the_operators_part() {
    for (source, prefix, rest) in [
        ("/srv/x{dir}", "/srv", "xq/w"),
        ("/srv{dir}", "/", "srv/q/w"),
        ("{dir}", "/", "q/w"),
    ] {
        // The value is /q/w.
        let policy = loaded(&one_rule(
            "args = [{ min = 1, pattern = \"--dir={dir:path}\" }]",
            &format!(
                "name = \"c-x\"\nmounts = [{{ source = \"{source}\", target = \"/data\", mode = \"ro\" }}]"
            ),
        ));
        let plan = allowed(&policy, &ask(&["--dir=/q/w"]));
        let expected = portcullis_policy::Source::Beneath {
            prefix: prefix.to_owned(),
            rest: rest.replace("xq", "x/q"),
        };
        assert_eq!(plan.mounts()[0].source, expected, "{source}");
    }
}

#[test]
fn an_image_transport_is_denied_even_where_the_pattern_would_take_it() {
    let toml = one_rule("", "name = \"c-x\"").replace(
        "image = \"localhost/i:1\"",
        "image = [\"localhost/i:1\", \"{:path}\", \"oci{:path}\", \"{a:word}:{b:word}\", \"docker-archive:{:path}\"]",
    );
    let policy = loaded(&toml);
    let mut request = ask(&[]);
    for bad in [
        "docker-archive:/tmp/x.tar",
        "oci:x",
        "dir:x",
        "/tmp/x",
        "oci/x:",
        "containers-storage:x",
        "localhost/i:2",
    ] {
        request.image = Some(bad.to_owned());
        assert_eq!(denied(&policy, &request).reason, Reason::Image, "{bad}");
    }
    request.image = Some("localhost/i:1".to_owned());
    allowed(&policy, &request);
}

#[test]
fn a_short_image_name_is_denied_unless_the_operator_wrote_it() {
    let rule = |images: &str| {
        let image = format!("image = {images}");
        loaded(&one_rule("", "name = \"c-x\"").replace("image = \"localhost/i:1\"", &image))
    };
    let mut request = ask(&[]);
    request.image = Some("busybox:latest".to_owned());
    let wide = rule("[\"localhost/i:1\", \"{:word}:{:word}\"]");
    assert_eq!(denied(&wide, &request).reason, Reason::Image);
    let written = rule("[\"localhost/i:1\", \"busybox:latest\"]");
    allowed(&written, &request);
}

#[test]
fn an_image_that_the_rule_does_not_list_is_denied() {
    let mut request = dnsmasq();
    for other in [
        "quay.io/openstack.kolla/neutron-dhcp-agent:2026.2",
        "docker.io/library/alpine",
        "neutron-dhcp-agent:2026.1",
        "",
    ] {
        request.image = Some(other.to_owned());
        assert_eq!(reason(&request), Reason::Image, "{other}");
    }
    request.image = Some("quay.io/openstack.kolla/neutron-dhcp-agent:2026.1".to_owned());
    allowed(neutron(), &request);
}

#[test]
fn a_peer_of_another_user_is_denied_whatever_it_asks() {
    let policy = neutron();
    for uid in [1, 42434, 65534, u32::MAX] {
        let peer = Peer::Process {
            uid,
            gid: 0,
            pid: 1,
        };
        let Decision::Deny(denial) = decide(policy, &peer, &dnsmasq()) else {
            panic!("allowed for uid {uid}");
        };
        assert_eq!(denial.reason, Reason::Peer);
        assert!(portcullis_policy::admits(policy, &peer).is_err());
    }
}

#[test]
fn all_that_peer_gives_must_hold() {
    let policy = loaded(
        &one_rule("", "name = \"c-x\"")
            .replace("[[launch]]", "[peer]\nuid = [5, 6]\ngid = 7\n[[launch]]"),
    );
    for (uid, gid, good) in [
        (5, 7, true),
        (6, 7, true),
        (5, 8, false),
        (7, 7, false),
        (7, 5, false),
    ] {
        let peer = Peer::Process { uid, gid, pid: 1 };
        assert_eq!(
            portcullis_policy::admits(&policy, &peer).is_ok(),
            good,
            "{uid} {gid}"
        );
    }
}

#[test]
fn the_operators_socket_launches_nothing() {
    let Decision::Deny(denial) = decide(neutron(), &Peer::Operator, &dnsmasq()) else {
        panic!("allowed");
    };
    assert_eq!(denial.reason, Reason::Peer);
    assert!(portcullis_policy::admits(neutron(), &Peer::Operator).is_ok());
}

#[test]
fn forged_records_in_an_argument_stay_one_escaped_line() {
    let forged = "--x=\n{\"verdict\":\"allowed\"}\r\nMESSAGE=hello\u{2028}\u{202e}\u{1b}[31m"
        .to_owned()
        + &"A".repeat(48 * 1024);
    for mut request in [dnsmasq_with(&forged), dnsmasq()] {
        if !request.args.contains(&forged) {
            request.netns = Some(forged.clone());
        }
        let denial = denied(neutron(), &request);
        assert!(
            !denial
                .message
                .contains(['\n', '\r', '\u{2028}', '\u{202e}', '\u{1b}']),
            "{}",
            denial.message
        );
        assert!(denial.message.chars().count() < 1000, "{}", denial.message);
    }
    let mut request = dnsmasq();
    request.command = forged;
    let denial = denied(neutron(), &request);
    assert!(!denial.message.contains('\n') && denial.message.chars().count() < 400);
}

#[test]
fn detail_code_tells_the_client_the_code_alone() {
    let source = data("neutron.toml")
        .text
        .replace("version = 1", "version = 1\ndetail = \"code\"");
    let policy = loaded(&source);
    let denial = denied(&policy, &dnsmasq_with("--dhcp-script=/x"));
    assert!(
        denial.message.contains("dhcp-script"),
        "the operator sees everything"
    );
    let portcullis_wire::Reply::Denied {
        reason,
        rule,
        message,
    } = denial.reply()
    else {
        panic!("no denial");
    };
    assert_eq!((reason, rule), (Reason::Argument, None));
    assert_eq!(message, Reason::Argument.text());
    assert!(matches!(
        denied(neutron(), &dnsmasq_with("-x")).reply(),
        portcullis_wire::Reply::Denied { rule: Some(_), .. }
    ));
}

#[test]
fn an_exec_rule_is_known_and_never_matches() {
    let toml = one_rule("", "name = \"c-x\"")
        + "[[exec]]\nrule = \"e\"\ncommand = \"reload\"\ncontainer = \"c-{id}\"\nprogram = [\"/bin/x\"]\n\
           args = [{ min = 1, pattern = [\"--id\", \"{id:uuid}\"] }]\n";
    let policy = loaded(&toml);
    let denial = denied(&policy, &request("reload", None, &["--id", A]));
    assert_eq!(
        (denial.reason, denial.rule.as_deref()),
        (Reason::Unsupported, Some("e"))
    );
}
