//! Capabilities that reach beyond their container.

/// With what a capability reaches beyond its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum With {
    Anything,
    /// In the host's PID namespace.
    HostPid,
    /// In the host's network.
    HostNetwork,
}

/// A capability, with what it is dangerous, whether it is root on the host then, and what it gives.
pub(super) struct Capability {
    pub(super) name: &'static str,
    pub(super) with: With,
    pub(super) is_root: bool,
    pub(super) gives: &'static str,
}

const fn root(name: &'static str, with: With, gives: &'static str) -> Capability {
    Capability {
        name,
        with,
        is_root: true,
        gives,
    }
}

const fn host(name: &'static str, with: With, gives: &'static str) -> Capability {
    Capability {
        name,
        with,
        is_root: false,
        gives,
    }
}

/// The first row that applies counts.
pub(super) const CAPABILITIES: &[Capability] = &[
    root(
        "SYS_ADMIN",
        With::Anything,
        "mounts, namespaces, cgroups, BPF: most of what root may do",
    ),
    root("SYS_MODULE", With::Anything, "loads code into the kernel"),
    root(
        "SYS_RAWIO",
        With::Anything,
        "reads and writes memory and disks",
    ),
    root(
        "SYS_BOOT",
        With::Anything,
        "restarts the host, also with another kernel",
    ),
    root("BPF", With::Anything, "loads programs into the kernel"),
    root("PERFMON", With::Anything, "reads the kernel's memory"),
    root(
        "DAC_READ_SEARCH",
        With::Anything,
        "opens every file of a mounted file system by its handle",
    ),
    root(
        "MAC_ADMIN",
        With::Anything,
        "changes what SELinux or AppArmor allow",
    ),
    root("MAC_OVERRIDE", With::Anything, "is not asked by the LSM"),
    root(
        "SYS_PTRACE",
        With::HostPid,
        "takes over every process of the host",
    ),
    root(
        "CHECKPOINT_RESTORE",
        With::HostPid,
        "opens the memory of every process of the host",
    ),
    host(
        "SYS_PTRACE",
        With::Anything,
        "takes over every process that it sees",
    ),
    host(
        "CHECKPOINT_RESTORE",
        With::Anything,
        "chooses pids, opens the memory of others",
    ),
    host(
        "DAC_OVERRIDE",
        With::Anything,
        "reads and writes every file of its mounts, whoever it belongs to",
    ),
    host("MKNOD", With::Anything, "makes device nodes"),
    host("SYS_TIME", With::Anything, "sets the host's clock"),
    host(
        "SYS_RESOURCE",
        With::Anything,
        "goes beyond limits and quotas",
    ),
    host(
        "SYS_NICE",
        With::Anything,
        "takes the processors from everybody else",
    ),
    host(
        "SYS_PACCT",
        With::Anything,
        "turns process accounting on and off",
    ),
    host("SYS_TTY_CONFIG", With::Anything, "hangs up terminals"),
    host(
        "SYSLOG",
        With::Anything,
        "reads and clears the kernel's log",
    ),
    host(
        "AUDIT_CONTROL",
        With::Anything,
        "turns the host's audit off",
    ),
    host("AUDIT_READ", With::Anything, "reads the host's audit"),
    host(
        "AUDIT_WRITE",
        With::Anything,
        "writes records into the host's audit",
    ),
    host(
        "LINUX_IMMUTABLE",
        With::Anything,
        "makes files that root cannot remove",
    ),
    host("BLOCK_SUSPEND", With::Anything, "keeps the host awake"),
    host("WAKE_ALARM", With::Anything, "wakes the host"),
    host("KILL", With::HostPid, "signals every process of the host"),
    host(
        "NET_ADMIN",
        With::HostNetwork,
        "changes the host's addresses, routes and firewall",
    ),
    host(
        "NET_RAW",
        With::HostNetwork,
        "reads and forges the host's traffic",
    ),
];
