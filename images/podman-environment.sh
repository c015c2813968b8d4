#!/bin/sh
# Writes a containers.conf to the given path where this machine's podman needs one of its own, and prints that path.
# On a host with systemd, cgroup v2 and all capabilities it writes and prints nothing. Run it as the user who runs podman.
# For the demo and the tests alone: no setting in it is one of the product's.
set -eu

[ $# -eq 1 ] || { echo "usage: $0 PATH" >&2; exit 2; }

# Rootful podman raises limits to values that take CAP_SYS_RESOURCE (bit 24), unless it is told others.
effective=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
containers=
if [ $(((0x$effective >> 24) & 1)) -eq 0 ]; then
	limit() { # $1 wished for, $2 what is allowed
		if [ "$2" = unlimited ] || [ "$2" -ge "$1" ]; then echo "$1"; else echo "$2"; fi
	}
	files=$(limit 4096 "$(sed -n 's/^Max open files *[^ ]* *\([^ ]*\).*/\1/p' /proc/self/limits)")
	processes=$(limit 4096 "$(sed -n 's/^Max processes *[^ ]* *\([^ ]*\).*/\1/p' /proc/self/limits)")
	containers="default_ulimits = [\"nproc=$processes:$processes\", \"nofile=$(limit 1024 "$files"):$files\"]"
fi

engine=
# podman asks systemd for cgroups, where it is PID 1 and rules them; crun wants one unified hierarchy.
if [ ! -d /run/systemd/system ] || [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
	engine='cgroup_manager = "cgroupfs"'
fi
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ] && command -v runc >/dev/null; then
	engine="$engine
runtime = \"runc\""
fi

if [ -n "$containers$engine" ]; then
	printf '[containers]\n%s\n[engine]\n%s\n' "$containers" "$engine" >"$1"
	echo "$1"
fi
