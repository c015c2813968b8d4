#!/bin/sh
# Installs what this machine lacks, on Debian or Ubuntu; as an ordinary user through sudo. Nothing is touched that is there.
#   build   a C compiler with its static library, and Rust
#   run     podman and what makes namespaces and images: for the demo and the tests
#   test    valgrind, and what makes file systems and Python environments
#   lint    shellcheck, rustfmt, clippy
# Never a service: dnsmasq, haproxy and the like are unpacked into images only.
set -eu

here=$(dirname "$0")
PATH=$PATH:/usr/sbin:/sbin
packages=

need() { # a command, and the package that brings it
	command -v "$1" >/dev/null || packages="$packages $2"
}

candidate() { # the version that apt would install
	apt-cache policy "$1" | sed -n 's/^ *Candidate: *\([0-9.]*\).*/\1/p'
}

rust() {
	if "$here/host-rust.sh" --check; then return; fi
	if command -v rustup >/dev/null; then
		rustup toolchain install stable --profile minimal --component rustfmt --component clippy
		return
	fi
	update
	wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
	# Debian keeps a new Rust for its browsers' sake (-web); Ubuntu has packages that carry the version in their name.
	versioned=$(apt-cache pkgnames rustc-1. | sed -n 's/^rustc\(-1\.[0-9]*\)$/\1/p' | sort -rV)
	for suffix in '' -web $versioned; do
		version=$(candidate "rustc$suffix")
		if [ -n "$version" ] && printf '%s\n%s\n' "$wanted" "$version" | sort -VC; then
			packages="$packages rustc$suffix cargo$suffix"
			return
		fi
	done
	echo "$0: Rust $wanted or later is neither here nor in this distribution's packages; install it from https://rustup.rs" >&2
	exit 1
}

rust_tools() { # rustfmt and clippy, of the same make as the compiler; rustup brings its own
	fmt=rustfmt lint=clippy
	if "$here/host-rust.sh" cargo fmt --version >/dev/null 2>&1; then fmt=; fi
	if "$here/host-rust.sh" cargo clippy --version >/dev/null 2>&1; then lint=; fi
	if [ -z "$fmt$lint" ]; then return; fi
	for suffix in '' -web $(apt-cache pkgnames rustc-1. | sed -n 's/^rustc\(-1\.[0-9]*\)$/\1/p' | sort -rV); do
		if dpkg-query -W -f '${db:Status-Abbrev}' "rustc$suffix" 2>/dev/null | grep -q '^ii'; then
			for package in ${fmt:+"rustfmt$suffix"} ${lint:+"rust$suffix-clippy"}; do
				if [ -n "$(candidate "$package")" ]; then packages="$packages $package"; fi
			done
			return
		fi
	done
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

updated=
update() {
	[ -n "$updated" ] || as_root apt-get update -q
	updated=yes
}

for kind in "$@"; do
	case $kind in
	build)
		need cc gcc
		echo 'int main(void) { return 0; }' | cc -static -xc -o /dev/null - 2>/dev/null || packages="$packages libc6-dev"
		[ -e /etc/ssl/certs/ca-certificates.crt ] || packages="$packages ca-certificates"
		rust
		;;
	run)
		need podman podman
		need conmon conmon
		# crun does not know the hierarchies of before cgroup v2.
		if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
			need runc runc
		elif ! command -v crun >/dev/null; then
			need runc crun
		fi
		[ -x /usr/lib/podman/netavark ] || packages="$packages netavark"
		need ip iproute2
		need mmdebstrap mmdebstrap
		;;
	test)
		need valgrind valgrind
		need mkfs.ext4 e2fsprogs
		need mount mount
		need python3 python3
		/usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
		;;
	lint)
		need shellcheck shellcheck
		rust_tools
		;;
	*)
		echo "usage: $0 [build] [run] [test] [lint]" >&2
		exit 2
		;;
	esac
done

if [ -n "$packages" ]; then
	echo "installing:$packages"
	update
	# shellcheck disable=SC2086 # several packages
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
fi
