#!/bin/sh
# Makes a Python environment with Ansible and its linter, of pinned versions, and prints its path. Kept until this script
# changes.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
place=$here/../../target/ansible
# A version of ansible-core that this suite's Python runs.
packages='ansible-core==2.19.14 ansible-lint==26.10.1'
# The distribution's: one in front of it in PATH may be gone tomorrow.
python=/usr/bin/python3

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
	echo "$0: $python cannot make environments: images/host-packages.sh test" >&2
	exit 1
fi
mkdir -p "$place"
place=$(cd "$place" && pwd)
version=$({ cat "$0" && "$python" --version; } | sha256sum | cut -c1-12)
environment=$place/venv-$version

exec 9>>"$place/lock"
flock 9
if [ ! -e "$environment/complete" ]; then
	echo "fetching $packages ..." >&2
	rm -rf "$place"/venv*
	"$python" -m venv "$environment" >&2
	# shellcheck disable=SC2086 # several packages
	"$environment/bin/pip" install --quiet --disable-pip-version-check --retries 10 --timeout 60 $packages >&2 9>&- || {
		echo "$0: pip cannot have $packages; it takes a network" >&2
		exit 1
	}
	touch "$environment/complete"
fi
echo "$environment"
