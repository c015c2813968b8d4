#!/bin/sh
# Runs a command with a cargo and rustc in front of its PATH that are new enough for this workspace:
#   images/host-rust.sh cargo build
# They may be on the PATH, in ~/.cargo/bin, a toolchain of rustup's, or one of Ubuntu's versioned packages.
# --check says whether there are any.
set -eu

manifest=$(cd "$(dirname "$0")" && pwd)/../Cargo.toml
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$manifest")

new_enough() {
	[ -x "$1/cargo" ] && [ -x "$1/rustc" ] || return 1
	found=$(PATH=$1:$PATH "$1/rustc" --version 2>/dev/null | cut -d' ' -f2)
	[ -n "$found" ] && printf '%s\n%s\n' "$wanted" "$found" | sort -VC
}

rust() {
	present=$(command -v cargo) || present=
	for dir in "${present%/cargo}" "$HOME/.cargo/bin" "$HOME"/.rustup/toolchains/*/bin /usr/bin /usr/lib/rust-*/bin; do
		if new_enough "$dir"; then
			echo "$dir"
			return
		fi
	done
	return 1
}

if [ "${1:-}" = --check ]; then
	rust >/dev/null
	exit
fi
dir=$(rust) || {
	echo "$0: no Rust $wanted or later is here; ./demo.sh and ./test.sh install it where a package has it" >&2
	exit 1
}
PATH=$dir:$PATH exec "$@"
