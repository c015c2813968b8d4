#!/bin/sh
# Boots the root that root.sh made, with its own systemd as PID 1, and stays until that has ended:
#   tests/host/boot.sh ROOT GROUP
# GROUP is an empty cgroup of the unified hierarchy, which the machine gets for its own. All that is written in there is
# in memory and goes with it. It is killed when standard input ends: whoever holds its other end may be killed, too.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 ROOT GROUP" >&2; exit 2; }
root=$1
group=$2

# The root's own systemd-nspawn, with the root's own libraries: nothing of it need be installed on this machine.
for loader in "$root"/usr/lib/*-linux-gnu*/ld-linux-*.so.*; do libraries=${loader%/*}; done
if [ ! -x "$loader" ]; then
	echo "$0: there is no loader of programs in $root" >&2
	exit 1
fi

exec 3<&0
{ cat <&3 >/dev/null; echo 1 >"$group/cgroup.kill"; } 2>/dev/null &
exec 3<&-

echo $$ >"$group/cgroup.procs"
# podman's store cannot lie on the overlay that the root is. runc asks for key rings and BPF, the broker for Landlock.
calls='@keyring bpf landlock_create_ruleset landlock_add_rule landlock_restrict_self'
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec "$loader" --library-path "$libraries:$libraries/systemd" "$root/usr/bin/systemd-nspawn" \
	--quiet --directory="$root" --volatile=overlay --tmpfs=/var/lib/containers:mode=0755 --machine=portcullis-test \
	--register=no --keep-unit --link-journal=no --private-network --capability=all --system-call-filter="$calls" \
	--console=pipe --boot </dev/null
