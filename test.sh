#!/bin/sh
# Runs every check and test on a Debian or Ubuntu machine: installs what is missing, then runs `make lint test`.
set -eu
cd "$(dirname "$0")"
if ! command -v make >/dev/null; then
	as_root=
	[ "$(id -u)" -eq 0 ] || as_root=sudo
	$as_root apt-get update -q
	$as_root apt-get install -q -y --no-install-recommends make
fi
exec make lint test
