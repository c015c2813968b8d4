//! The list of lints.

use super::Level;

/// Every lint, its level, and what is behind it.
pub(super) const LINTS: &[(&str, Level, &str)] = &[
    (
        "host-pid-root",
        Level::Deny,
        "uid 0 in the host's PID namespace can signal every process of root and enter every root container",
    ),
    (
        "short-image-name",
        Level::Deny,
        "an image without a registry is whatever of that name is on the host",
    ),
    (
        "privileged",
        Level::Deny,
        "a privileged container is root on the host",
    ),
    (
        "host-network",
        Level::Warn,
        "it can reach everything that the host can, abstract sockets too",
    ),
    (
        "host-pid",
        Level::Warn,
        "it sees every process of the host and can signal those of its user",
    ),
    (
        "root-user",
        Level::Warn,
        "there is no user namespace: what it can reach of the host it reaches as root",
    ),
    (
        "root-capability",
        Level::Deny,
        "this capability is root on the host",
    ),
    (
        "host-capability",
        Level::Warn,
        "this capability reaches beyond the container",
    ),
    (
        "new-privileges",
        Level::Warn,
        "a setuid program in the image gives its caller the rights of its owner",
    ),
    (
        "unpinned-image",
        Level::Warn,
        "a tag can come to mean another image; a digest cannot",
    ),
    (
        "text-argument",
        Level::Warn,
        "the kind `text` lets the agent write almost anything there",
    ),
    (
        "unordered-arguments",
        Level::Warn,
        "`args` is a set: words whose meaning is their place can be swapped and left out. Put what belongs together into one entry, [\"-o\", \"{:path}\"], or write `order = \"fixed\"`",
    ),
    (
        "any-netns",
        Level::Warn,
        "without a literal beginning the agent chooses among the network namespaces of the whole host, also those of others",
    ),
    (
        "loader-environment",
        Level::Deny,
        "the loader or an interpreter takes code from there: the agent runs any code in that program",
    ),
    (
        "mount-over-program",
        Level::Deny,
        "whoever writes these files runs any code as the program, or has podman's own mounts made elsewhere",
    ),
    (
        "writable-system-path",
        Level::Deny,
        "who can write there can become root on the host",
    ),
    (
        "host-socket",
        Level::Deny,
        "whoever is behind this socket acts as root for its callers; a read-only mount keeps nobody from connecting",
    ),
    (
        "broad-mount",
        Level::Warn,
        "much more of the host than one service's files",
    ),
    (
        "agent-written-config",
        Level::Warn,
        "the program reads files that the agent may write: assume that the agent runs any code in it; its user, capabilities and mounts are the boundary, argument patterns are not",
    ),
    (
        "no-limits",
        Level::Warn,
        "without a memory and a PID limit one container can exhaust the host",
    ),
    (
        "no-peer",
        Level::Warn,
        "whoever can reach the socket may use it",
    ),
    (
        "peer-beside-spool",
        Level::Warn,
        "[peer] is about processes on the socket: whoever can write a spool's directory has his lines judged without it",
    ),
    (
        "writable-spool",
        Level::Deny,
        "whoever can write a spool's directory has his lines judged as the agent's: the side container becomes a peer",
    ),
    (
        "spool-never-matches",
        Level::Warn,
        "a line has a network namespace and arguments, and nothing to name an image or environment with",
    ),
    (
        "root-device",
        Level::Deny,
        "this device is the host's memory, disks or hardware",
    ),
    (
        "device",
        Level::Warn,
        "a device is a way around the container",
    ),
    (
        "lsm-off",
        Level::Warn,
        "a layer that confines containers is off",
    ),
];
