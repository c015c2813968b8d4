//! The container that a process is in, by its cgroup: told in the audit record, and never relied on.
//!
//! A process that may make cgroups, or name its container, can make this say what it likes.

use std::fs;

/// A container's full ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerId([u8; 64]);

impl ContainerId {
    /// As a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        let id = Self(text.as_bytes().try_into().ok()?);
        id.0.iter().all(hex).then_some(id)
    }
}

/// The container of a process, if it is in one of podman's or docker's. Ask whether the process lives after this.
#[must_use]
pub fn container_of(pid: i32) -> Option<ContainerId> {
    container_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// Lines are `NUMBER:CONTROLLERS:PATH`; with cgroup v2 there is one, `0::PATH`, and with v1 one a hierarchy. The outermost
/// component that has the shape of a container counts: what is beneath it, the container itself could have made.
fn container_in(cgroups: &str) -> Option<ContainerId> {
    let paths = cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2));
    paths
        .filter_map(|path| {
            let mut before = "";
            path.split('/').find_map(|component| {
                let id = container_named(before, component);
                before = component;
                id
            })
        })
        .next()
}

/// `libpod-ID.scope` and `libpod-ID` (podman with systemd's cgroups and its own), `docker-ID.scope` (docker with systemd's),
/// and `ID` in a component named `docker` (docker with its own).
fn container_named(parent: &str, component: &str) -> Option<ContainerId> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let prefixed = ["libpod-", "docker-"]
        .iter()
        .find_map(|p| name.strip_prefix(p));
    ContainerId::parse(prefixed.or((parent == "docker").then_some(component))?)
}

#[cfg(test)]
mod tests {
    use super::container_in;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    fn found(cgroups: &str) -> Option<String> {
        container_in(cgroups).map(|id| id.as_str().to_owned())
    }

    #[test]
    fn podmans_and_dockers_shapes_are_known_with_both_versions_and_managers() {
        for cgroups in [
            format!("0::/machine.slice/libpod-{ID}.scope/container\n"),
            format!("0::/machine.slice/libpod-{ID}.scope\n"),
            format!("0::/libpod_parent/libpod-{ID}\n"),
            format!("0::/system.slice/docker-{ID}.scope\n"),
            format!("0::/docker/{ID}\n"),
            format!("12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n"),
            format!("5:devices:/libpod_parent/libpod-{ID}\n0::/\n"),
            format!("3:cpu,cpuacct:/machine.slice/libpod-{ID}.scope\n"),
        ] {
            assert_eq!(found(&cgroups).as_deref(), Some(ID), "{cgroups}");
        }
    }

    #[test]
    fn the_outermost_container_counts() {
        let cgroups = format!("0::/docker/{ID}/machine.slice/libpod-{OTHER}.scope\n");
        assert_eq!(found(&cgroups).as_deref(), Some(ID));
    }

    #[test]
    fn what_is_in_no_container_is_not_said_to_be() {
        for cgroups in [
            "",
            "0::/\n",
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "nonsense",
            &format!("0::/machine.slice/libpod-conmon-{ID}.scope\n"),
            &format!("0::/machine.slice/libpod-{ID}0.scope\n"),
            &format!(
                "0::/machine.slice/libpod-{}.scope\n",
                ID.replace("0123", "012")
            ),
            &format!("0::/docker/{}\n", ID.to_uppercase()),
            &format!("0::/{ID}\n"),
        ] {
            assert_eq!(found(cgroups), None, "{cgroups}");
        }
    }
}
