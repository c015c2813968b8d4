//! What a process was given by whoever started it: what a payload of ours and one that an operator typed have alike.

use crate::Process;
use std::collections::BTreeMap;
use std::fs;

/// What is compared of a container's main process, with what differs between any two containers left out.
///
/// # Panics
/// When it has ended, or the ID is none.
#[must_use]
pub fn inheritance(process: Process, id: &str) -> BTreeMap<String, String> {
    let own = [
        "Pid",
        "Tgid",
        "PPid",
        "NStgid",
        "NSpid",
        "NSpgid",
        "NSsid",
        "Ngid",
        "State",
        "Threads",
        "voluntary_ctxt_switches",
        "nonvoluntary_ctxt_switches",
        "FDSize",
        "SigQ",
    ];
    let mut all: BTreeMap<String, String> = process.status();
    all.retain(|key, _| {
        !own.contains(&key.as_str())
            && !key.starts_with("Vm")
            && !key.starts_with("Rss")
            && !key.starts_with("HugetlbPages")
    });
    let mut add = |key: &str, value: String| all.insert(key.to_owned(), value);
    for file in [
        "limits",
        "oom_score_adj",
        "timerslack_ns",
        "personality",
        "coredump_filter",
        "loginuid",
        "attr/current",
        "uid_map",
        "gid_map",
        "cmdline",
    ] {
        let text = fs::read_to_string(process.file(file)).unwrap_or_else(|e| e.to_string());
        add(file, text);
    }
    let mut environment: Vec<_> = process
        .environment()
        .into_iter()
        .map(|entry| entry.replace(id.get(..12).expect("its files under /proc"), "ID"))
        .collect();
    environment.sort();
    add("environment", environment.join("\n"));
    let descriptors: Vec<_> = process
        .descriptors()
        .into_iter()
        .map(|(number, target)| {
            format!(
                "{number} {}",
                target.split(':').next().expect("its files under /proc")
            )
        })
        .collect();
    add("descriptors", descriptors.join("\n"));
    add(
        "cwd",
        fs::read_link(process.file("cwd"))
            .expect("its files under /proc")
            .display()
            .to_string(),
    );
    let stat = fs::read_to_string(process.file("stat")).expect("its files under /proc");
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .expect("its files under /proc")
        .1
        .split_whitespace()
        .collect();
    add(
        "priority and nice",
        format!("{} {}", fields[15], fields[16]),
    );
    add(
        "real-time priority and policy",
        format!("{} {}", fields[37], fields[38]),
    );
    let cgroup = fs::read_to_string(process.file("cgroup")).expect("its files under /proc");
    add("cgroup", cgroup.replace(id, "ID"));
    let mounts = fs::read_to_string(process.file("mountinfo")).expect("its files under /proc");
    let mut mounts: Vec<String> = mounts
        .lines()
        .map(|line| {
            line.split(' ')
                .skip(4)
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    mounts.sort(); // podman's own order changes from run to run
    add("mounts", mounts.join("\n"));
    all
}
