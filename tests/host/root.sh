#!/bin/sh
# Makes the root of the machine that the host tests boot, a Debian or Ubuntu of this suite with systemd and podman, and
# prints its path. Nothing of ours is in it: each test installs the package by itself. Kept until this script changes.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
place=$here/../../target/host
if [ "$(id -u)" -ne 0 ]; then
	echo "$0: a root file system takes root: sudo $0" >&2
	exit 1
fi

# systemd-container is for this machine's side: boot.sh runs the systemd-nspawn in here, so that none is installed there.
# runc, as crun insists on limits that take CAP_SYS_RESOURCE.
# python3-apt is what Ansible installs packages with.
packages=systemd,systemd-sysv,dbus,systemd-container,iproute2,podman,runc,conmon,netavark,python3,python3-apt

umask 022
mkdir -p "$place"
place=$(cd "$place" && pwd -P)
owner=$(stat -c %u:%g "$here")
chown "$owner" "$(dirname "$place")" "$place"
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "${UBUNTU_CODENAME:-${VERSION_CODENAME:?}}")
version=$({ cat "$0" && echo "$suite $(dpkg --print-architecture)"; } | sha256sum | cut -c1-12)
root=$place/root-$version

exec 9>>"$place/lock"
flock 9
if [ -d "$root" ]; then
	echo "$root"
	exit
fi

echo "making a machine's root of packages of $suite ..." >&2
rm -rf "$root.new"
trap 'rm -rf "$root.new" "$root.log"' EXIT
trap 'exit 1' HUP INT TERM
sources=
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/ubuntu.sources; do
	if [ -s "$file" ]; then sources="$sources $file"; fi
done
# shellcheck disable=SC2086 # several files
mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" --aptopt='Apt::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' "$suite" "$root.new" $sources >"$root.log" 2>&1 9>&- || {
	cat "$root.log" >&2
	echo "$0: mmdebstrap failed" >&2
	exit 1
}

# Where podman's store is mounted, and what podman lacks where systemd-nspawn itself has no capability to raise limits,
# or has no controllers to give away. Never settings of the product's.
mkdir -p "$root.new/var/lib/containers" "$root.new/etc/containers"
cat >"$root.new/etc/containers/containers.conf" <<'END'
[containers]
default_ulimits = ["nproc=1024:4096", "nofile=1024:4096"]
pids_limit = 0
[engine]
runtime = "runc"
END
# Units that fail in any container say nothing of ours.
ln -s /dev/null "$root.new/etc/systemd/system/e2scrub_reap.service"
for mount in dev-hugepages sys-kernel-debug sys-kernel-tracing; do
	ln -s /dev/null "$root.new/etc/systemd/system/$mount.mount"
done
mv "$root.new" "$root"
# A machine that runs from an older one has this lock.
flock "$place/turn" find "$place" -maxdepth 1 -name 'root-*' ! -path "$root" -exec rm -rf {} +
echo "$root"
