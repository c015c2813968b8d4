//! What `check` finds, one row per finding.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use portcullis_policy::{Level, Policy};
use portcullis_wire::AgentName;
use support::*;

/// A rule that nothing is to be said about, with these lines in it and in its container.
fn with(rule: &str, container: &str) -> String {
    let digest = format!("localhost/i@sha256:{}", "0".repeat(64));
    one_rule(
        &format!("netns = \"n-{{x:uuid}}\"\nprogram = [\"/usr/sbin/daemon\"]\n{rule}"),
        &format!("name = \"c-{{x}}\"\nmemory = \"64MiB\"\n{container}"),
    )
    .replace("localhost/i:1", &digest)
    .replace("[[launch]]", "[peer]\nuid = 0\n[[launch]]")
}

fn lints(toml: &str) -> Vec<(&'static str, Level)> {
    let agent = AgentName::new("a").unwrap();
    let reviewed = Policy::review(&agent, &[text("a.toml", toml)]);
    let (_, lints) = reviewed.unwrap_or_else(|problems| panic!("{problems}"));
    lints.iter().map(|lint| (lint.name, lint.level)).collect()
}

/// Every key is one that a rule for a small helper may have, no placeholder is of the kind `text`, and yet the agent is root
/// on the host.
#[test]
fn policy_that_looks_tight_and_is_not_has_findings() {
    let tight = with(
        "args = [\"-i\", \"{:path(/srv/in)}\", \"-o\", \"{:path(/srv/out)}\"]\nenv = [\"LD_PRELOAD={:path}\"]",
        "capabilities = [\"SYS_ADMIN\", \"SYS_MODULE\", \"SYS_RAWIO\", \"BPF\", \"DAC_READ_SEARCH\", \"SYS_PTRACE\"]\n\
         no_new_privileges = false\n\
         mounts = [{ source = \"/var/lib\", target = \"/a\", mode = \"rw\" }, \
         { source = \"/etc/cron.d\", target = \"/b\", mode = \"rw\" }, \
         { source = \"/root/.ssh\", target = \"/c\", mode = \"rw\" }, \
         { source = \"/run/portcullis-launcher\", target = \"/d\", mode = \"rw\" }]",
    )
    .replace("1000:1000", "0:0")
    .replace("n-{x:uuid}", "{x:uuid}");
    let mut names: Vec<&str> = lints(&tight).iter().map(|(name, _)| *name).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "any-netns",
            "unordered-arguments",
            "loader-environment",
            "root-user",
            "new-privileges",
            "root-capability",
            "host-capability",
            "writable-system-path",
            "broad-mount",
            "writable-system-path",
            "host-socket",
            "writable-system-path",
        ]
    );
}

/// Asserts that these lines bring these findings and no others, each of that level.
#[track_caller]
fn found(rule: &str, container: &str, level: Level, expected: &[&'static str]) {
    let expected: Vec<_> = expected.iter().map(|name| (*name, level)).collect();
    assert_eq!(
        lints(&with(rule, container)),
        expected,
        "{rule} {container}"
    );
}

fn mount(source: &str, target: &str, mode: &str) -> String {
    format!("mounts = [{{ source = \"{source}\", target = \"{target}\", mode = \"{mode}\" }}]")
}

#[test]
fn rule_without_findings_has_none() {
    found("", "", Level::Warn, &[]);
}

#[test]
fn capability_is_found_by_what_it_gives() {
    for (capabilities, with, level, lint) in [
        ("SYS_ADMIN", "", Level::Deny, "root-capability"),
        ("SYS_MODULE", "", Level::Deny, "root-capability"),
        ("SYS_RAWIO", "", Level::Deny, "root-capability"),
        ("SYS_BOOT", "", Level::Deny, "root-capability"),
        ("BPF", "", Level::Deny, "root-capability"),
        ("PERFMON", "", Level::Deny, "root-capability"),
        ("DAC_READ_SEARCH", "", Level::Deny, "root-capability"),
        ("MAC_ADMIN", "", Level::Deny, "root-capability"),
        ("MAC_OVERRIDE", "", Level::Deny, "root-capability"),
        ("SYS_PTRACE", "", Level::Warn, "host-capability"),
        ("CHECKPOINT_RESTORE", "", Level::Warn, "host-capability"),
        ("DAC_OVERRIDE", "", Level::Warn, "host-capability"),
        ("MKNOD", "", Level::Warn, "host-capability"),
        ("SYS_TIME", "", Level::Warn, "host-capability"),
        ("SYS_RESOURCE", "", Level::Warn, "host-capability"),
        ("SYS_NICE", "", Level::Warn, "host-capability"),
        ("SYS_PACCT", "", Level::Warn, "host-capability"),
        ("SYS_TTY_CONFIG", "", Level::Warn, "host-capability"),
        ("SYSLOG", "", Level::Warn, "host-capability"),
        ("AUDIT_CONTROL", "", Level::Warn, "host-capability"),
        ("AUDIT_READ", "", Level::Warn, "host-capability"),
        ("AUDIT_WRITE", "", Level::Warn, "host-capability"),
        ("LINUX_IMMUTABLE", "", Level::Warn, "host-capability"),
        ("BLOCK_SUSPEND", "", Level::Warn, "host-capability"),
        ("WAKE_ALARM", "", Level::Warn, "host-capability"),
        (
            "SYS_PTRACE",
            "pid = \"host\"",
            Level::Deny,
            "root-capability",
        ),
        (
            "CHECKPOINT_RESTORE",
            "pid = \"host\"",
            Level::Deny,
            "root-capability",
        ),
        ("KILL", "pid = \"host\"", Level::Warn, "host-capability"),
        (
            "NET_ADMIN",
            "network = \"host\"",
            Level::Warn,
            "host-capability",
        ),
        (
            "NET_RAW",
            "network = \"host\"",
            Level::Warn,
            "host-capability",
        ),
    ] {
        let container = format!("capabilities = [\"{capabilities}\"]\n{with}");
        let mut toml = self::with("", &container);
        if with.contains("network") {
            toml = toml
                .replace("netns = \"n-{x:uuid}\"\n", "")
                .replace("c-{x}", "c-x");
        }
        let mut lints = lints(&toml);
        lints.retain(|(name, _)| !["host-pid", "host-network"].contains(name));
        assert_eq!(lints, [(lint, level)], "{container}");
    }
    for harmless in [
        "CHOWN",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ] {
        found(
            "",
            &format!("capabilities = [\"{harmless}\"]"),
            Level::Warn,
            &[],
        );
    }
}

#[test]
fn uid_0_and_new_privileges_are_found() {
    let root = with("", "").replace("1000:1000", "0:0");
    assert_eq!(lints(&root), [("root-user", Level::Warn)]);
    let group = with("", "").replace("1000:1000", "1000:0");
    assert_eq!(lints(&group), []);
    let seen = with("", "pid = \"host\"").replace("1000:1000", "0:0");
    assert_eq!(lints(&seen), [("host-pid-root", Level::Deny)]);
    found(
        "",
        "no_new_privileges = false",
        Level::Warn,
        &["new-privileges"],
    );
    found("", "no_new_privileges = true", Level::Warn, &[]);
    found("", "privileged = true", Level::Deny, &["privileged"]);
    found("", "selinux = \"type:spc_t\"", Level::Warn, &["lsm-off"]);
    found("", "selinux = \"type:container_net_t\"", Level::Warn, &[]);
}

#[test]
fn device_is_found_by_what_it_is() {
    for device in [
        "/dev/mem",
        "/dev/port",
        "/dev/kmsg",
        "/dev/sda",
        "/dev/sda1",
        "/dev/nvme0n1",
        "/dev/pmem0",
        "/dev/dax0.0",
        "/dev/ram0",
        "/dev/dasda",
        "/dev/drbd0",
        "/dev/bcache0",
        "/dev/cciss/c0d0",
        "/dev/ubi0",
        "/dev/dm-0",
        "/dev/mapper/vg-root",
        "/dev/mapper",
        "/dev/disk/by-label/root",
        "/dev/vfio/1",
        "/dev/cpu/0/msr",
        "/dev/loop0",
        "/dev/loop-control",
        "/dev/bus/usb",
        "/dev/input/event0",
        "/dev/uinput",
    ] {
        found(
            "",
            &format!("devices = [\"{device}\"]"),
            Level::Deny,
            &["root-device"],
        );
    }
    for device in ["/dev/net/tun", "/dev/kvm", "/dev/fuse", "/dev/dri/card0"] {
        found(
            "",
            &format!("devices = [\"{device}\"]"),
            Level::Warn,
            &["device"],
        );
    }
}

#[test]
fn loader_environment_of_request_is_found() {
    for entry in [
        "LD_PRELOAD={:path}",
        "LD_LIBRARY_PATH={:path}",
        "LD_AUDIT=/x/{:word}",
        "GCONV_PATH={:path}",
        "GLIBC_TUNABLES={:word}",
        "PYTHONPATH={:path}",
        "PYTHONSTARTUP={:path}",
        "PERL5LIB={:path}",
        "PERL5OPT={:word}",
        "RUBYOPT={:word}",
        "RUBYLIB={:path}",
        "NODE_OPTIONS={:word}",
        "BASH_ENV={:path}",
        "ENV={:path}",
        "BASH_FUNC_x={:word}",
        "JAVA_TOOL_OPTIONS=-javaagent:{:path}",
        "CLASSPATH={:path}",
        "GIT_SSH={:path}",
        "PATH={:path}",
        "PATH=/usr/bin:/{x}",
        "IFS={:word}",
        "OPENSSL_CONF={:path}",
        "LUA_CPATH={:path}",
        "PS4={:word}",
        "XDG_CONFIG_HOME={:path}",
        "LESSOPEN={:word}",
    ] {
        let lint = &["loader-environment"];
        found(&format!("env = [\"{entry}\"]"), "", Level::Deny, lint);
        if let Some((name, _)) = entry.split_once('=') {
            let set = format!("environment = [\"{name}=/srv/{{x}}\"]");
            found("", &set, Level::Deny, lint);
        }
    }
    for entry in [
        "DEBUG={:int}",
        "PATHS={:path}",
        "MY_LD_PRELOAD={:path}",
        "LANG={:word}",
        "PROCESS_TAG=x-{x}",
        "TZ={:word}",
        "PATH={:one(/usr/bin|/bin)}",
        "LD_PRELOAD=/usr/lib/a.so",
    ] {
        found(&format!("env = [\"{entry}\"]"), "", Level::Deny, &[]);
    }
}

#[test]
fn loader_environment_beneath_agents_mount_is_found() {
    let rw = mount("/srv/a/{x}", "/jobs", "rw");
    for value in ["/jobs/a.so", "/usr/lib/b.so:/jobs/a.so", "/jobs"] {
        let set = format!("environment = [\"LD_PRELOAD={value}\"]\n{rw}");
        let names: Vec<_> = lints(&with("", &set))
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert!(names.contains(&"loader-environment"), "{value}: {names:?}");
    }
    let asked = with(
        "env = [\"LD_PRELOAD={:one(/usr/lib/a.so|/jobs/b.so)}\"]",
        &rw,
    );
    assert_eq!(lints(&asked), [("loader-environment", Level::Deny)]);
    let elsewhere = format!("environment = [\"LD_PRELOAD=/jobshop/a.so\"]\n{rw}");
    assert_eq!(
        lints(&with("", &elsewhere)),
        [("agent-written-config", Level::Warn)]
    );
    let operators = format!(
        "environment = [\"LD_PRELOAD=/jobs/a.so\"]\n{}",
        mount("/opt/a", "/jobs", "ro")
    );
    found("", &operators, Level::Warn, &[]);
}

#[test]
fn writable_system_path_is_found_in_both_directions() {
    for (source, also) in [
        // What is there, and beneath it.
        ("/etc/cron.d", None),
        ("/etc/systemd/system/x.service.d", None),
        ("/root/.ssh", Some("broad-mount")),
        ("/usr/local/bin", None),
        ("/lib/modules", None),
        ("/boot/grub", None),
        ("/var/lib/portcullis/dhcp", None),
        ("/etc/portcullis/agents", Some("broad-mount")),
        ("/var/lib/containers/storage/overlay", Some("broad-mount")),
        ("/var/lib/docker/volumes/x", None),
        ("/var/lib/dpkg/info", None),
        ("/var/lib/extensions/x", None),
        ("/var/lib/machines", None),
        ("/var/lib/snapd/x", None),
        ("/run/extensions", None),
        ("/run/initctl", None),
        ("/var/spool/cron/crontabs", None),
        ("/run/systemd/system", None),
        ("/var/run/systemd/system", None),
        ("/run/netns", None),
        ("/sys/fs/cgroup", Some("broad-mount")),
        // What is above it.
        ("/var/lib", None),
        ("/var/spool", None),
        ("/var/log", None),
        ("/home", Some("broad-mount")),
        ("/var", Some("broad-mount")),
        ("/run", Some("host-socket")),
        ("/var/run", Some("host-socket")),
        ("/", Some("host-socket")),
        // With a value that can lead there.
        ("/var/lib/{word}", None),
        ("/etc/{x}", Some("broad-mount")),
        ("/var/{word}/cron", Some("broad-mount")),
        ("/{word}", Some("host-socket")),
        ("/run/{word}", Some("host-socket")),
    ] {
        let args = "args = [{ min = 1, pattern = \"--word={word:word}\" }]";
        let lints = lints(&with(args, &mount(source, "/t", "rw")));
        let names: Vec<&str> = lints.iter().map(|(name, _)| *name).collect();
        let expected: Vec<&str> = also.into_iter().chain(["writable-system-path"]).collect();
        assert_eq!(names, expected, "{source}");
    }
    for source in [
        "/srv/a",
        "/var/lib/neutron",
        "/var/lib/neutron/{x}",
        "/var/lib/{x}",
        "/var/libs",
        "/home/build/cache",
        "/opt/app/data",
        "/var/lib/docker/volumes/x/_data",
        "/var/log/app",
        "/run/app",
        "/data/etc",
    ] {
        found("", &mount(source, "/t", "rw"), Level::Warn, &[]);
    }
    for (read, also) in [
        ("/etc/cron.d", None),
        ("/var/lib", None),
        ("/root/.ssh", Some("broad-mount")),
    ] {
        let also: Vec<_> = also.into_iter().collect();
        found("", &mount(read, "/t", "ro"), Level::Warn, &also);
    }
    let kolla = "/var/lib/containers/storage/volumes/neutron_metadata_socket/_data/{x}";
    found("", &mount(kolla, "/t", "rw"), Level::Warn, &["broad-mount"]);
}

#[test]
fn socket_of_root_is_found_also_where_it_is_read_only() {
    for source in [
        "/run/podman/podman.sock",
        "/var/run/docker.sock",
        "/run/podman",
        "/run/dbus",
        "/run/systemd/private",
        "/srv/docker.sock",
        "/run/portcullis-launcher",
        "/run",
        "/",
    ] {
        found(
            "",
            &mount(source, "/t", "ro"),
            Level::Deny,
            &["host-socket"],
        );
    }
    found("", &mount("/run/podman-x", "/t", "ro"), Level::Deny, &[]);
}

#[test]
fn agents_mount_over_program_or_loader_is_found() {
    for target in [
        "/usr",
        "/usr/sbin",
        "/usr/sbin/daemon",
        "/bin",
        "/usr/bin",
        "/usr/lib",
        "/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/local/lib/x",
        "/etc",
        "/etc/ld.so.preload",
        "/etc/ld.so.conf.d",
        "/dev",
        "/dev/shm",
        "/proc",
        "/sys",
        "/run",
        "/etc/hosts",
        "/{word}",
        "/usr/{word}",
    ] {
        let args = "args = [{ min = 1, pattern = \"--word={word:word}\" }]";
        for (source, mode) in [("/srv/a/{x}", "ro"), ("/srv/a/{x}", "rw"), ("/srv/x", "rw")] {
            found(
                args,
                &mount(source, target, mode),
                Level::Deny,
                &["mount-over-program"],
            );
        }
        if !target.contains('{') {
            found("", &mount("/opt/x", target, "ro"), Level::Deny, &[]);
        }
    }
    for target in [
        "/jobs",
        "/usr/share/x",
        "/etc/app",
        "/run/app",
        "/var/lib/x",
        "/{x}",
        "/usr/sbin2",
    ] {
        found("", &mount("/srv/a/{x}", target, "rw"), Level::Deny, &[]);
    }
    // A program at a place of its own.
    let own =
        with("", &mount("/srv/a/{x}", "/app", "rw")).replace("/usr/sbin/daemon", "/app/bin/daemon");
    assert_eq!(lints(&own), [("mount-over-program", Level::Deny)]);
    let script = with("", &mount("/srv/a/{x}", "/app", "rw"))
        .replace("[\"/usr/sbin/daemon\"]", "[\"/bin/sh\", \"/app/run.sh\"]");
    assert_eq!(lints(&script), [("agent-written-config", Level::Warn)]);
}

#[test]
fn words_whose_place_is_their_meaning_are_found() {
    for args in [
        "[\"-i\", \"{:path(/srv/in)}\"]",
        "[\"-i\", \"{:path(/srv/in)}\", \"-o\", \"{:path(/srv/out)}\"]",
        "[{ min = 1, pattern = \"-i\" }, { min = 1, pattern = \"/srv/in/{:word}\" }]",
        "[\"{:path(/srv/in)}\", \"{:path(/srv/out)}\"]",
        "[\"add\", \"{:int}\"]",
        "[\"{:int}\", \"up\"]",
        "[{ any = [\"--x=1\", \"-i\"] }, { any = [[\"-a\", \"b\"], \"{:int}\"] }]",
    ] {
        found(
            &format!("args = {args}"),
            "",
            Level::Warn,
            &["unordered-arguments"],
        );
        found(
            &format!("args = {args}\norder = \"fixed\""),
            "",
            Level::Warn,
            &[],
        );
    }
    for args in [
        "[[\"-i\", \"{:path(/srv/in)}\"], [\"-o\", \"{:path(/srv/out)}\"]]",
        "[\"--a\", \"--b={:int}\", \"-c{:int}\", \"\"]",
        "[{ max = 8, pattern = \"{:path}\" }]",
        "[\"{:path}\", \"-v\"]",
        "[\"--mode={:word}\", \"{:path}\"]",
        "[\"start\", \"-v\"]",
    ] {
        found(&format!("args = {args}"), "", Level::Warn, &[]);
    }
}

#[test]
fn netns_that_begins_with_value_is_found() {
    for netns in ["{y:word}", "{:uuid}", "{y:hostname}_x"] {
        let toml = with("", "")
            .replace("n-{x:uuid}", netns)
            .replace("c-{x}", "c-x");
        assert_eq!(lints(&toml), [("any-netns", Level::Warn)], "{netns}");
    }
    for netns in ["a-{y:word}", "{agent}-{y:word}", "{y:one(a|b)}", "plain"] {
        let toml = with("", "")
            .replace("n-{x:uuid}", netns)
            .replace("c-{x}", "c-x");
        assert_eq!(lints(&toml), [], "{netns}");
    }
}

#[test]
fn each_lint_can_be_allowed_with_reason() {
    for (lint, container) in [
        (
            "root-capability",
            "capabilities = [\"SYS_ADMIN\"]".to_owned(),
        ),
        ("writable-system-path", mount("/etc/cron.d", "/t", "rw")),
        ("host-socket", mount("/run/podman/podman.sock", "/t", "ro")),
        ("mount-over-program", mount("/srv/a/{x}", "/usr", "rw")),
        ("new-privileges", "no_new_privileges = false".to_owned()),
    ] {
        found(
            &format!("allow = {{ {lint} = \"a test\" }}"),
            &container,
            Level::Warn,
            &[],
        );
    }
}
