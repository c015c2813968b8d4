#!/bin/sh
# Makes a root file system from packages of this distribution and prints the path of its tar file, for `podman import`.
# There is no registry, and nothing is installed on this machine. A finished one is kept until this script changes.
#   busybox   one static binary and a link per applet: agents, DHCP clients, the tests' payloads. Needs no root.
#   helpers   dnsmasq, haproxy, keepalived, radvd and what they link to, beside busybox
set -eu

name=${1:-}
case $name in
busybox | helpers) ;;
*)
	echo "usage: $0 busybox|helpers" >&2
	exit 2
	;;
esac

here=$(cd "$(dirname "$0")" && pwd)
place=$here/../target/images
# Tests ask for it from many processes at once, and as root for a checkout that belongs to somebody else.
umask 022
mkdir -p "$place"
place=$(cd "$place" && pwd)
owner=$(stat -c %u:%g "$here")
if [ "$(id -u)" -eq 0 ]; then chown "$owner" "$(dirname "$place")" "$place"; fi

# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "${UBUNTU_CODENAME:-${VERSION_CODENAME:?}}")
architecture=$(dpkg --print-architecture)
version=$({ cat "$0" && echo "$suite $architecture"; } | sha256sum | cut -c1-12)
tar=$place/$name-$version.tar

exec 9>>"$place/$name.lock"
flock 9
if [ -s "$tar" ]; then
	echo "$tar"
	exit
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/portcullis-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

fail() {
	[ ! -s "$work/log" ] || cat "$work/log" >&2
	echo "$0: $1" >&2
	exit 1
}

# The root directory's own mode, the links of a merged /usr, and two users: dnsmasq looks for nobody, whoever it runs as.
skeleton() {
	mkdir -p "$1"
	chmod 755 "$1"
	for dir in bin sbin lib lib64; do
		mkdir -p "$1/usr/$dir"
		ln -s "usr/$dir" "$1/$dir"
	done
	for dir in dev etc proc run sys var/lib var/log; do mkdir -p "$1/$dir"; done
	mkdir "$1/tmp"
	chmod 1777 "$1/tmp"
	ln -s /run "$1/var/run"
	printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$1/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
}

# The static binary, and a link for each applet that no package has a program for.
busybox() {
	(cd "$work" && apt-get -o APT::Sandbox::User=root download busybox-static) >"$work/log" 2>&1 ||
		fail 'busybox-static cannot be downloaded; apt-get update may help'
	dpkg-deb -x "$work"/busybox-static_*.deb "$work/unpacked"
	binary=$(find "$work/unpacked" -type f -path '*bin/busybox')
	install -m 755 "$binary" "$1/usr/bin/busybox"
	"$binary" --list | while read -r applet; do
		for dir in bin sbin; do
			if [ -e "$1/usr/$dir/$applet" ]; then continue 2; fi
		done
		ln -s busybox "$1/usr/bin/$applet"
	done
}

# mmdebstrap only unpacks: no package's script runs, and so no service is set up.
helpers() {
	sources=
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/ubuntu.sources; do
		if [ -s "$file" ]; then sources="$sources $file"; fi
	done
	# shellcheck disable=SC2086 # several files
	mmdebstrap --quiet --variant=extract --include=dnsmasq-base,haproxy,keepalived,radvd \
		--aptopt='Apt::Install-Recommends "false"' "$suite" "$work/extracted" $sources >"$work/log" 2>&1 ||
		fail 'mmdebstrap failed'
	# No program that is wanted here needs what is left out.
	(cd "$work/extracted" && rm -rf usr/share/perl* usr/lib/*/perl* usr/lib/*/gconv usr/share/doc usr/share/man usr/share/locale)
	tar -C "$work/extracted" -cf - . | tar -C "$1" --keep-directory-symlink -xf -
}

echo "making the image $name of packages of $suite ..." >&2
root=$work/root
skeleton "$root"
if [ "$name" = helpers ]; then helpers "$root"; fi
busybox "$root"
tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$tar.new" .
if [ "$(id -u)" -eq 0 ]; then chown "$owner" "$tar.new" "$place/$name.lock"; fi
mv "$tar.new" "$tar"
find "$place" -name "$name-*.tar" ! -path "$tar" -delete
echo "$tar"
