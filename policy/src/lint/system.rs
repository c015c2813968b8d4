//! Places, sockets and devices of a host that are root's, and places of an image that are a program's.

/// Where code or configuration of root's is on a host.
pub(super) const SYSTEM: &[&str] = &[
    "/boot",
    "/dev",
    "/etc",
    "/nix",
    "/ostree",
    "/proc",
    "/root",
    "/sys",
    "/sysroot",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/run/containerd",
    "/run/containers",
    "/run/credentials",
    "/run/crio",
    "/run/crun",
    "/run/dbus",
    "/run/docker",
    "/run/docker.sock",
    "/run/libpod",
    "/run/netns",
    "/run/podman",
    "/run/portcullis",
    "/run/portcullis-launcher",
    "/run/runc",
    "/run/sudo",
    "/run/systemd",
    "/run/udev",
    "/run/user",
    "/var/lib/apt",
    "/var/lib/cloud",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/dbus",
    "/var/lib/dnf",
    "/var/lib/docker",
    "/var/lib/dpkg",
    "/var/lib/kubelet",
    "/var/lib/libvirt",
    "/var/lib/polkit-1",
    "/var/lib/portcullis",
    "/var/lib/rancher",
    "/var/lib/rpm",
    "/var/lib/sudo",
    "/var/lib/systemd",
    "/var/log/audit",
    "/var/log/journal",
    "/var/spool/anacron",
    "/var/spool/at",
    "/var/spool/cron",
    "/home",
    "/opt",
];

/// Directories of [`SYSTEM`] that have a service's own files beneath: themselves, and what is above them, alone count.
pub(super) const SHARED: &[&str] = &["/home", "/opt"];

/// Whether this is the data of an engine's volume, which lies among the engine's files and is a service's own.
pub(super) fn is_volume(path: &str) -> bool {
    [
        "/var/lib/containers/storage/volumes/",
        "/var/lib/docker/volumes/",
    ]
    .into_iter()
    .filter_map(|volumes| path.strip_prefix(volumes)?.split_once('/'))
    .any(|(name, rest)| !name.is_empty() && rest.split('/').next() == Some("_data"))
}

/// Sockets behind which somebody acts as root.
pub(super) const SOCKETS: &[&str] = &[
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/dbus/system_bus_socket",
    "/run/docker.sock",
    "/run/libvirt/libvirt-sock",
    "/run/podman/podman.sock",
    "/run/portcullis-launcher",
    "/run/systemd/private",
];

/// What sockets of engines are called, wherever they are.
pub(super) const ENGINES: &[&str] = &["docker.sock", "podman.sock", "containerd.sock", "crio.sock"];

/// Where a container's loader and programs are, and what podman mounts into each container.
pub(super) const IMAGE: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libx32",
    "/usr/libexec",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/libexec",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/dev",
    "/proc",
    "/sys",
    "/run/.containerenv",
    "/run/secrets",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
];

/// Devices that are the host's memory, disks or hardware. `*` at the end is any rest.
pub(super) const DEVICES: &[&str] = &[
    "/dev/mem",
    "/dev/kmem",
    "/dev/port",
    "/dev/kmsg",
    "/dev/cpu*",
    "/dev/mtd*",
    "/dev/nvram",
    "/dev/ipmi*",
    "/dev/sd*",
    "/dev/hd*",
    "/dev/vd*",
    "/dev/xvd*",
    "/dev/nvme*",
    "/dev/mmcblk*",
    "/dev/dm-*",
    "/dev/mapper*",
    "/dev/md*",
    "/dev/loop*",
    "/dev/nbd*",
    "/dev/rbd*",
    "/dev/zd*",
    "/dev/sg*",
    "/dev/sr*",
    "/dev/bsg*",
    "/dev/disk*",
    "/dev/block*",
    "/dev/raw*",
    "/dev/vfio*",
    "/dev/uio*",
    "/dev/bus*",
    "/dev/input*",
    "/dev/uinput",
    "/dev/tty0",
    "/dev/console",
    "/dev/watchdog*",
    "/dev/tpm*",
    "/dev/btrfs-control",
    "/dev/vhost-vsock",
];

/// Whether a device is one of [`DEVICES`].
pub(super) fn is_root_device(device: &str) -> bool {
    DEVICES.iter().any(|known| match known.strip_suffix('*') {
        Some(beginning) => device.starts_with(beginning),
        None => device == *known,
    })
}
