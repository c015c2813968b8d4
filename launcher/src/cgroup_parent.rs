//! The cgroup that all side containers of an agent are in: beside those of other agents, with the same weight, so that an
//! agent with many that are busy takes no more processor time from another one than an agent with one.

use portcullis_wire::AgentName;
use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// Its name for podman, as the way in which podman manages cgroups wants it; `None` where it manages none.
pub(crate) fn name(manager: &str, agent: &str) -> Option<String> {
    match manager {
        // A dash would nest a slice in another one.
        "systemd" => Some(format!("portcullis-{}.slice", agent.replace('-', "\\x2d"))),
        "cgroupfs" => Some(format!("/portcullis/{agent}")),
        _ => None,
    }
}

/// Removes what podman has made of it without systemd, where nothing is in it any more. Nobody else does.
pub(crate) fn remove(agent: &AgentName) {
    let group = Path::new("portcullis").join(agent.as_str());
    let controllers = fs::read_dir(MOUNT).into_iter().flatten().flatten();
    let mounts = controllers
        .map(|entry| entry.path())
        .chain([PathBuf::from(MOUNT)]);
    for group in mounts.map(|mount| mount.join(&group)) {
        // In it is the one of conmons. Neither goes while something is in it.
        let _ = fs::remove_dir(group.join("conmon"));
        let _ = fs::remove_dir(group);
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn agents_slices_are_siblings() {
        let slice = name("systemd", "neutron-dhcp_1");
        assert_eq!(
            slice.as_deref(),
            Some("portcullis-neutron\\x2ddhcp_1.slice")
        );
        assert_eq!(name("cgroupfs", "a-b").as_deref(), Some("/portcullis/a-b"));
        assert_eq!(name("", "a"), None);
    }
}
