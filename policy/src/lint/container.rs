//! Lints of `[launch.container]` but its mounts.

use super::Collector;
use super::capabilities::{CAPABILITIES, With};
use super::environment::check_set;
use super::system::is_root_device;
use crate::container_table::ContainerTable;
use crate::problem::Place;
use crate::rule::Rule;
use crate::rule_table::LaunchTable;

pub(super) fn check(rule: &Rule, table: &LaunchTable, collector: &mut Collector<'_>) {
    let Some(container) = &table.container else {
        return;
    };
    let mut add = |name, place: &Place, label: &str| collector.add(name, Some(table), place, label);
    let settings = &rule.container.settings;
    let is_root = settings.user.starts_with("0:");
    match &container.host_pid {
        Some(place) if is_root => add("host-pid-root", place, "with uid 0"),
        Some(place) => add("host-pid", place, "shared with the host"),
        None if is_root => {
            if let Some(user) = &container.user {
                add("root-user", &user.place, "uid 0 of the host");
            }
        }
        None => {}
    }
    if let Some(place) = &container.host_network {
        add("host-network", place, "shared with the host");
    }
    if let Some(place) = &container.privileged {
        add("privileged", place, "everything");
    }
    if let Some(place) = &container.new_privileges {
        add("new-privileges", place, "by setuid programs");
    }
    if settings.memory.is_none() || settings.pids == 0 {
        let label = if settings.memory.is_none() {
            "no `memory`"
        } else {
            "no PID limit"
        };
        add("no-limits", &container.place, label);
    }
    of_capabilities(container, table, collector);
    of_devices(container, table, collector);
    of_layers(container, table, collector);
    check_set(rule, table, collector);
}

fn of_capabilities(container: &ContainerTable, table: &LaunchTable, collector: &mut Collector<'_>) {
    for text in &container.capabilities {
        let known = CAPABILITIES.iter().find(|known| {
            known.name == text.text
                && match known.with {
                    With::Anything => true,
                    With::HostPid => container.host_pid.is_some(),
                    With::HostNetwork => container.host_network.is_some(),
                }
        });
        if let Some(known) = known {
            let name = if known.is_root {
                "root-capability"
            } else {
                "host-capability"
            };
            collector.add(name, Some(table), &text.place, known.gives);
        }
    }
}

fn of_devices(container: &ContainerTable, table: &LaunchTable, collector: &mut Collector<'_>) {
    for device in &container.devices {
        let (name, label) = if is_root_device(&device.text) {
            ("root-device", "the host itself")
        } else {
            ("device", "a device of the host")
        };
        collector.add(name, Some(table), &device.place, label);
    }
}

/// The layers that confine a container and are off.
fn of_layers(container: &ContainerTable, table: &LaunchTable, collector: &mut Collector<'_>) {
    const UNCONFINED: &[&str] = &["disable", "type:spc_t", "type:unconfined_t"];
    let off = [&container.apparmor, &container.seccomp];
    let off = off
        .into_iter()
        .flatten()
        .filter(|text| text.text == "unconfined");
    let selinux = container.selinux.iter();
    let off = off.chain(selinux.filter(|text| UNCONFINED.contains(&&*text.text)));
    for text in off {
        collector.add("lsm-off", Some(table), &text.place, "off");
    }
}
