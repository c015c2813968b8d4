#!/bin/bash
# What the path unit starts on a host in the field. Written anew, from how that one behaves:
#   SPOOL=DIR LOCK=FILE SERVICE=NAME IMAGE=REF sync.sh PODMAN [OPTION]...
# What stays of podman does not get the lock. A word is what xargs makes of the line, and then what the shell makes of that.
set -e

podman=("$@")
exec 9>>"$LOCK"
flock -w 10 9
while read -r line; do
	# shellcheck disable=SC2046 # as in the field
	set -- $(xargs <<<"$line")
	netns=$1
	shift
	name=$SERVICE-$netns
	if [ -n "$("${podman[@]}" ps --quiet --filter "name=^$name\$")" ]; then continue; fi
	"${podman[@]}" stop "$name" >/dev/null 2>&1 || true
	"${podman[@]}" rm "$name" >/dev/null 2>&1 || true
	"${podman[@]}" run --detach --name "$name" --network "ns:/run/netns/$netns" "$IMAGE" \
		/bin/sh -c 'sleep 1000; :' "$SERVICE" "$@" </dev/null >/dev/null 9>&-
done <"$SPOOL/processes"
truncate --size=0 "$SPOOL/processes"
