//! The name of the network namespace that this process is in, found as `ip netns identify` finds it.
//!
//! The answer is a wish like everything that a client sends: the policy judges the name, and the launcher resolves it on
//! the host by itself.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The inode of the host's PID namespace, the same on every Linux (`PROC_PID_INIT_INO`).
const HOST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The first name, in the order of bytes, under `/run/netns` that stands for this process's namespace; none in the host's.
pub(crate) fn own() -> Option<String> {
    let (proc, names) = (Path::new("/proc"), Path::new("/run/netns"));
    identify(proc, names, HOST_PID_NAMESPACE)
}

fn identify(proc: &Path, names: &Path, host_pids: u64) -> Option<String> {
    let own = fs::metadata(proc.join("self/ns/net")).ok()?;
    let name = fs::read_dir(names)
        .ok()?
        .flatten()
        // Not through symbolic links: the launcher refuses those.
        .filter(|entry| entry.metadata().is_ok_and(|found| is_same(&found, &own)))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .min()?;
    if is_hosts(proc, host_pids, &own) {
        None
    } else {
        Some(name)
    }
}

/// Whether this namespace is the host's, which somebody has given a name. Process 1 is the host's only where this
/// process sees the host's processes; in a container it is the container's own, in the container's own namespace.
fn is_hosts(proc: &Path, host_pids: u64, own: &Metadata) -> bool {
    let stat = |name: &str| fs::metadata(proc.join(name));
    stat("self/ns/pid").is_ok_and(|pid| pid.ino() == host_pids)
        && stat("1/ns/net").is_ok_and(|init| is_same(&init, own))
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A pretended `/proc` whose process is in a pretended namespace, and a directory of names.
    fn pretended() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["proc/self/ns", "proc/1/ns", "netns"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["proc/self/ns/net", "proc/1/ns/net", "proc/self/ns/pid"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        dir
    }

    /// In a PID namespace of a container's.
    fn identified(dir: &tempfile::TempDir) -> Option<String> {
        identified_among(dir, HOST_PID_NAMESPACE)
    }

    fn identified_among(dir: &tempfile::TempDir, host_pids: u64) -> Option<String> {
        let (proc, names) = (dir.path().join("proc"), dir.path().join("netns"));
        identify(&proc, &names, host_pids)
    }

    /// Puts the pretended process 1 into the pretended namespace.
    fn share_with_process_1(dir: &tempfile::TempDir) {
        let init = dir.path().join("proc/1/ns/net");
        fs::remove_file(&init).unwrap();
        fs::hard_link(dir.path().join("proc/self/ns/net"), init).unwrap();
    }

    fn give_name(dir: &tempfile::TempDir, name: &str) {
        let (own, names) = (
            dir.path().join("proc/self/ns/net"),
            dir.path().join("netns"),
        );
        fs::hard_link(own, names.join(name)).unwrap();
    }

    #[test]
    fn the_first_name_of_this_namespace_is_taken() {
        let dir = pretended();
        fs::write(dir.path().join("netns/another"), "").unwrap();
        give_name(&dir, "qdhcp-2");
        give_name(&dir, "qdhcp-1");
        assert_eq!(identified(&dir).as_deref(), Some("qdhcp-1"));
    }

    #[test]
    fn a_namespace_without_a_name_is_none() {
        let dir = pretended();
        fs::write(dir.path().join("netns/another"), "").unwrap();
        assert_eq!(identified(&dir), None);
        fs::remove_dir_all(dir.path().join("netns")).unwrap();
        assert_eq!(identified(&dir), None);
    }

    #[test]
    fn a_symbolic_link_is_no_name() {
        let dir = pretended();
        symlink("../proc/self/ns/net", dir.path().join("netns/link")).unwrap();
        assert_eq!(identified(&dir), None);
    }

    #[test]
    fn process_1_of_a_container_is_not_the_host() {
        let dir = pretended();
        give_name(&dir, "qdhcp-1");
        share_with_process_1(&dir);
        assert_eq!(identified(&dir).as_deref(), Some("qdhcp-1"));
    }

    #[test]
    fn the_hosts_own_namespace_counts_as_none_even_with_a_name() {
        let dir = pretended();
        give_name(&dir, "host");
        let pids = fs::metadata(dir.path().join("proc/self/ns/pid")).unwrap();
        assert_eq!(identified_among(&dir, pids.ino()).as_deref(), Some("host"));
        share_with_process_1(&dir);
        assert_eq!(identified_among(&dir, pids.ino()), None);
    }
}
