//! The table `[launch.container]` as it is written.

use crate::document::{duration, not_one_of};
use crate::plan::OnConflict;
use crate::problem::{Finding, Findings, Place};
use crate::reader::Reader;
use crate::spelling::is_path;
use crate::text::Text;
use std::time::Duration;

/// What a rule says of its side containers.
#[derive(Debug)]
pub(crate) struct ContainerTable {
    pub(crate) place: Place,
    pub(crate) name: Option<Text>,
    pub(crate) user: Option<Text>,
    pub(crate) capabilities: Vec<Text>,
    pub(crate) environment: Vec<Text>,
    pub(crate) mounts: Vec<MountTable>,
    pub(crate) ready: Option<(Text, Duration)>,
    pub(crate) host_pid: Option<Place>,
    pub(crate) host_network: Option<Place>,
    pub(crate) privileged: Option<Place>,
    pub(crate) read_only: bool,
    /// Where `no_new_privileges = false` stands.
    pub(crate) new_privileges: Option<Place>,
    pub(crate) devices: Vec<Text>,
    pub(crate) memory: Option<u64>,
    pub(crate) pids: u32,
    pub(crate) on_conflict: OnConflict,
    pub(crate) log: Option<Text>,
    pub(crate) selinux: Vec<Text>,
    pub(crate) apparmor: Option<Text>,
    pub(crate) seccomp: Option<Text>,
    pub(crate) stop_timeout: Duration,
}

/// One of `mounts`.
#[derive(Debug)]
pub(crate) struct MountTable {
    pub(crate) source: Text,
    pub(crate) target: Option<Text>,
    pub(crate) read_only: bool,
}

/// The PID limit where a rule gives none.
const PIDS: u32 = 256;

/// How long readiness may take where a rule does not say.
const READY: Duration = Duration::from_secs(30);

/// How long a side container has between the polite and the final signal where a rule does not say; podman's own.
const STOP: Duration = Duration::from_secs(10);

impl ContainerTable {
    pub(crate) fn read(mut table: Reader<'_>, findings: &mut Findings) -> Self {
        let place = table.place.clone();
        let read = Self {
            name: table.required("name", "name = \"dnsmasq-{netns}\"", findings),
            user: table.required("user", "user = \"1000:1000\"", findings),
            capabilities: table.texts("capabilities", findings),
            environment: table.texts("environment", findings),
            mounts: mounts(&mut table, findings),
            ready: ready(&mut table, findings),
            host_pid: host(&mut table, "pid", findings),
            host_network: host(&mut table, "network", findings),
            privileged: table.truth_at("privileged", true, findings),
            read_only: table.truth("read_only", findings).unwrap_or(true),
            new_privileges: table.truth_at("no_new_privileges", false, findings),
            devices: table.texts("devices", findings),
            memory: memory(&mut table, findings),
            pids: table.small_number("pids", 0, findings).unwrap_or(PIDS),
            on_conflict: on_conflict(&mut table, findings),
            log: table.text("log", findings),
            selinux: table.texts("selinux", findings),
            apparmor: table.text("apparmor", findings),
            seccomp: table.text("seccomp", findings),
            stop_timeout: table
                .text("stop_timeout", findings)
                .and_then(|text| duration(&text, "stop_timeout", findings))
                .unwrap_or(STOP),
            place,
        };
        table.finish(findings);
        read.check(findings);
        read
    }

    /// What can be told from this table alone.
    fn check(&self, findings: &mut Findings) {
        const LOGS: &[&str] = &["journald", "k8s-file", "json-file", "none"];
        if let Some(log) = self.log.as_ref().filter(|log| !LOGS.contains(&&*log.text)) {
            findings.add(not_one_of(log, "log", LOGS));
        }
        for name in &self.capabilities {
            if !CAPABILITIES.contains(&&*name.text) {
                let bare = name.text.to_ascii_uppercase();
                let bare = bare.strip_prefix("CAP_").unwrap_or(&bare);
                let right = match crate::problem::nearest(bare, CAPABILITIES) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => "write it as \"NET_ADMIN\"; there is no \"ALL\"".to_owned(),
                };
                let title = format!("{:?} is no capability", name.text);
                findings.add(Finding::new(&name.place, title, "not known").help(right));
            }
        }
        if let (Some(place), Some(first)) = (&self.privileged, self.capabilities.first()) {
            let title = "a privileged container has all capabilities";
            findings.add(
                Finding::new(place, title, "privileged")
                    .also(&first.place, "and capabilities")
                    .help("leave out one of the two"),
            );
        }
        for option in &self.selinux {
            let known = |kind: &str| {
                option
                    .text
                    .strip_prefix(kind)
                    .and_then(|rest| rest.strip_prefix(':'))
            };
            let value = ["user", "role", "type", "level", "filetype"]
                .into_iter()
                .find_map(known);
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | ',' | '.');
            if option.text != "disable"
                && !value.is_some_and(|v| !v.is_empty() && v.chars().all(plain))
            {
                let title = format!("{:?} is no value of `selinux`", option.text);
                findings.add(Finding::new(&option.place, title, "not known").help(
                    "write it like \"type:container_net_t\" or \"level:s0:c1,c2\", or \"disable\"",
                ));
            }
        }
        if let Some(text) = &self.apparmor
            && !text
                .text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        {
            let title = format!("{:?} is no name of an AppArmor profile", text.text);
            findings.add(
                Finding::new(&text.place, title, "not a plain name")
                    .help("name a loaded profile, or \"unconfined\""),
            );
        }
        if let Some(text) = &self.seccomp
            && text.text != "unconfined"
            && !is_path(&text.text)
        {
            let title = format!("{:?} is no seccomp profile", text.text);
            findings.add(
                Finding::new(&text.place, title, "not an absolute path")
                    .help("write the path of a profile, or \"unconfined\""),
            );
        }
        for device in &self.devices {
            let plain = !device.text.contains([':', ',']);
            if !(is_path(&device.text) && device.text.starts_with("/dev/") && plain) {
                let title = format!("{:?} is no device", device.text);
                findings.add(
                    Finding::new(&device.place, title, "not a path under /dev")
                        .help("write it like \"/dev/net/tun\""),
                );
            }
        }
    }
}

fn host(table: &mut Reader<'_>, key: &'static str, findings: &mut Findings) -> Option<Place> {
    let text = table.text(key, findings)?;
    if text.text == "host" {
        return Some(text.place);
    }
    findings.add(
        Finding::new(
            &text.place,
            format!("{:?} is no value of `{key}`", text.text),
            "not \"host\"",
        )
        .help(format!(
            "write {key} = \"host\", or leave it out for one of its own"
        )),
    );
    None
}

fn on_conflict(table: &mut Reader<'_>, findings: &mut Findings) -> OnConflict {
    let Some(text) = table.text("on_conflict", findings) else {
        return OnConflict::Replace;
    };
    match &*text.text {
        "replace" => OnConflict::Replace,
        "keep" => OnConflict::Keep,
        "refuse" => OnConflict::Refuse,
        _ => {
            findings.add(not_one_of(
                &text,
                "on_conflict",
                &["replace", "keep", "refuse"],
            ));
            OnConflict::Refuse
        }
    }
}

fn memory(table: &mut Reader<'_>, findings: &mut Findings) -> Option<u64> {
    let text = table.text("memory", findings)?;
    let units = [
        ("KiB", 1u64 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let bytes = units.into_iter().find_map(|(unit, scale)| {
        let number = text.text.strip_suffix(unit)?;
        let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| number.parse::<u64>().ok())
            .flatten()?
            .checked_mul(scale)
    });
    // podman refuses less than 4 MiB or so; less than that starts nothing anyway.
    let bytes = bytes.filter(|bytes| *bytes >= 4 << 20);
    if bytes.is_none() {
        findings.add(
            Finding::new(
                &text.place,
                "`memory` is no size of at least 4 MiB",
                "not understood",
            )
            .help("write it like \"256MiB\"; also KiB, GiB and TiB"),
        );
    }
    bytes
}

fn ready(table: &mut Reader<'_>, findings: &mut Findings) -> Option<(Text, Duration)> {
    let mut ready = table.table("ready", "`ready`", findings)?;
    let pid_file = ready.required("pid_file", "pid_file = \"/run/program.pid\"", findings);
    let timeout = ready
        .text("timeout", findings)
        .and_then(|text| duration(&text, "timeout", findings));
    ready.finish(findings);
    pid_file.map(|pid_file| (pid_file, timeout.unwrap_or(READY)))
}

fn mounts(table: &mut Reader<'_>, findings: &mut Findings) -> Vec<MountTable> {
    let example = "[{ source = \"/srv/data\", mode = \"ro\" }]";
    let items = table.list("mounts", example, findings);
    let mut read = Vec::new();
    for (value, place) in items {
        let Some(mut mount) = table.as_table(value, place, "a mount", findings) else {
            continue;
        };
        let source = mount.required("source", "source = \"/srv/data\"", findings);
        let target = mount.text("target", findings);
        let mode = mount.required("mode", "mode = \"ro\" or mode = \"rw\"", findings);
        mount.finish(findings);
        let read_only = match mode.as_ref().map(|mode| (&*mode.text, mode)) {
            Some(("ro", _)) => true,
            Some(("rw", _)) => false,
            Some((_, mode)) => {
                findings.add(not_one_of(mode, "mode", &["ro", "rw"]));
                true
            }
            None => true,
        };
        read.extend(source.map(|source| MountTable {
            source,
            target,
            read_only,
        }));
    }
    read
}

/// Linux's capabilities as podman names them.
const CAPABILITIES: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];
