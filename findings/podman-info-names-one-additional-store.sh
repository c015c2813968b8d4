#!/bin/sh
# `podman info` names one additional image store, however many storage.conf has.
#
# podman 4.3.1+ds1-8+deb12u1+b3 of Debian 12 (amd64), containers/storage as it is built into it, driver vfs.
#
# With `additionalimagestores = [A, B]`, podman looks for images in both: an image that is in A alone is found. But in
# `podman info --format json`, store.graphOptions is an object with one value for each option, and all stores are the
# option "vfs.imagestore": only the last of them is there. A program that reads it to learn which stores to watch misses the
# others, and sees no sign that there are any.
#
# Output seen:
#   stores in storage.conf: A B
#   graphOptions: {"vfs.imagestore": "…/B"}
#   image in A alone: found
set -eu

podman=4.3.1+ds1-8+deb12u1+b3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq "podman=$podman" conmon=2.1.6+ds1-1 runc=1.1.5+ds1-1+deb12u1 libgpgme11=1.18.0-3+deb12u1 \
	libassuan0=2.5.5-5 libsubid4=1:4.13+dfsg1-1+deb12u2 libdevmapper1.02.1=2:1.02.185-2 busybox-static=1:1.35.0-4+deb12u1+b1
for package in *.deb; do
	dpkg-deb --extract "$package" root
done
lib=$work/root/usr/lib/x86_64-linux-gnu:$work/root/lib/x86_64-linux-gnu
cat >containers.conf <<END
[engine]
conmon_path = ["$work/root/usr/bin/conmon"]
runtime = "runc"
[engine.runtimes]
runc = ["$work/root/usr/sbin/runc"]
END

run() {
	LD_LIBRARY_PATH=$lib CONTAINERS_CONF=$work/containers.conf "$work/root/usr/bin/podman" "$@"
}
for store in A B; do
	mkdir -p "$store"
	run --root "$work/$store" --runroot "$work/run-$store" --storage-driver vfs info >/dev/null
done
# An image that is in A alone.
mkdir -p image/bin
cp root/bin/busybox image/bin/
tar --create --file=image.tar --directory=image .
run --root "$work/A" --runroot "$work/run-A" --storage-driver vfs import --quiet image.tar localhost/in-a:1 >/dev/null

cat >storage.conf <<END
[storage]
driver = "vfs"
graphroot = "$work/main"
runroot = "$work/run-main"
[storage.options]
additionalimagestores = ["$work/A", "$work/B"]
END
export CONTAINERS_STORAGE_CONF="$work/storage.conf"
echo 'stores in storage.conf: A B'
options=$(run info --format '{{json .Store.GraphOptions}}')
echo "graphOptions: $options"
if run image exists localhost/in-a:1; then
	echo 'image in A alone: found'
else
	echo 'image in A alone: not found, so this finding holds no more'
	exit 1
fi
if [ "$options" != "{\"vfs.imagestore\":\"$work/B\"}" ]; then
	echo 'graphOptions names other stores than the last alone: this finding holds no more'
	exit 1
fi
