#!/bin/sh
# The demo, as root; `make demo` builds first and calls it. All that it makes is in one temporary directory, a podman
# store of its own and network namespaces with names of their own, and is removed at the end, however it ends.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
bin=$here/../target/dist/bin
images=$here/../images
PATH=$PATH:/usr/sbin:/sbin
uid=42435

dir=$(mktemp -d /tmp/portcullis-demo.XXXXXX)
a=$(cat /proc/sys/kernel/random/uuid)
b=$(cat /proc/sys/kernel/random/uuid)
network_a=qdhcp-$a
network_b=qdhcp-$b
# A namespace that belongs to no network's DHCP: the tenant's own machine.
tenant=demo-tenant-${dir##*.}
launcher=
step=
podman=$(command -v podman)
made_netns=
[ -d /run/netns ] || made_netns=yes

say() { # a step's heading
	step=$1
	printf '\n%s\n' "$1"
}

fail() {
	printf 'demo: %s\n' "$1" >&2
	exit 1
}

podman() {
	"$podman" --root="$dir/store" --runroot="$dir/runroot" --tmpdir="$dir/tmp" "$@"
}

stop_launcher() {
	[ -n "$launcher" ] || return 0
	kill "$launcher" 2>/dev/null || true
	wait "$launcher" || true
	launcher=
}

clean_up() {
	status=$?
	trap '' HUP INT TERM
	set +e
	if [ $status -ne 0 ]; then
		printf '\ndemo: FAILED in: %s\n' "$step"
		[ ! -s "$dir/log" ] || tail -n 20 "$dir/log"
	fi >&2
	stop_launcher
	podman rm --force --all --time=0 >/dev/null 2>&1
	# conmon calls a podman after each container's end: it would mount the store once more behind our back.
	tries=0
	while [ $tries -lt 100 ] && grep -qs "[/]${dir#/}" /proc/[0-9]*/cmdline; do
		tries=$((tries + 1))
		sleep 0.1
	done
	for name in "$network_a" "$network_b" "$tenant"; do ip netns delete "$name" 2>/dev/null; done
	if [ -n "$made_netns" ]; then
		umount /run/netns && rmdir /run/netns
	fi 2>/dev/null
	# Longest first: what is mounted on top is unmounted first.
	cut -d' ' -f5 /proc/self/mountinfo | grep "^$dir/" | sort -r | while read -r mount; do umount -l "$mount"; done
	rm -rf --one-file-system "$dir" || status=1
	[ $status -ne 0 ] || printf '\ndemo: ok\n'
	exit $status
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

portcullis() { # the client as the operator uses it, on the operator's socket
	"$bin/portcullis" --socket "$dir/private/control.sock" "$@"
}

start_launcher() {
	"$bin/portcullis-launcher" --agent demo --listen "$dir/run/broker.sock" --policy "$dir/policy.toml" \
		--config "$dir/portcullis.toml" --state-dir "$dir/state" --runtime-dir "$dir/private" \
		</dev/null >>"$dir/log" 2>&1 &
	launcher=$!
	tries=0
	# It answers at once; a little later the broker has locked itself up and serves.
	until portcullis ping >"$dir/ping" 2>/dev/null && ! grep -q 'no layer' "$dir/ping"; do
		tries=$((tries + 1))
		if [ $tries -gt 200 ] || ! kill -0 "$launcher" 2>/dev/null; then fail 'Portcullis does not start'; fi
		sleep 0.05
	done
}

agent() { # runs a command in the agent's container
	podman exec demo-agent "$@"
}

neutron_dnsmasq() { # runs plain `dnsmasq` in the agent as Neutron does: $1 the network whose files, $2... more arguments
	files=/var/lib/neutron/dhcp/$1
	shift
	agent dnsmasq --no-hosts --no-resolv --pid-file="$files/pid" --dhcp-hostsfile="$files/host" \
		--addn-hosts="$files/addn_hosts" --dhcp-optsfile="$files/opts" --dhcp-leasefile="$files/leases" \
		--dhcp-match=set:ipxe,175 --dhcp-userclass=set:ipxe6,iPXE --local-service --bind-dynamic \
		--dhcp-range=set:subnet-"$b",10.20.0.0,static,255.255.255.0,86400s --dhcp-option-force=option:mtu,1450 \
		--dhcp-lease-max=256 --conf-file=/dev/null --domain=openstacklocal "$@"
}

denied() { # $1 the reason that is expected, then the command
	reason=$1
	shift
	if "$@" >"$dir/out" 2>&1; then code=0; else code=$?; fi
	sed 's/^/    /' "$dir/out"
	if [ $code -ne 126 ] || ! grep -q "$reason" "$dir/out"; then
		fail "exit code $code; 126 and '$reason' were expected"
	fi
}

lease() { # a DHCP client of the tenant's: busybox's, in a container on the other end of the cable
	podman run --rm --network="ns:/run/netns/$tenant" --cap-drop=all --cap-add=NET_ADMIN --cap-add=NET_RAW \
		--cap-add=NET_BIND_SERVICE --volume="$here/lease.sh:/lease.sh:ro" localhost/portcullis-demo-busybox:1 \
		udhcpc -i eth0 -f -n -q -t 10 -T 1 -s /lease.sh >"$dir/out" 2>&1 || {
		cat "$dir/out" >&2
		fail 'no lease'
	}
	grep 'has the lease of 10.20.0.5/24' "$dir/out" | sed 's/^/    tenant: /' || fail 'no lease of 10.20.0.5'
}

container_and_process() {
	# podman complains that the path by which it was given the namespace is gone: only the launcher could ever use it.
	podman inspect --format='{{.Id}} {{.State.Pid}}' "demo-dnsmasq-$a" 2>/dev/null
}

dnsmasq_runs() { # the very container and process of the first start
	now=$(container_and_process)
	if [ "$now" != "$started" ] || ! kill -0 "${now#* }"; then fail 'dnsmasq is not the one that was started'; fi
}

say 'Images of Debian packages, two networks A and B, and a cable from A to the machine of a tenant.'
# Nothing of an image is taken from a registry, and no service is installed on this host.
mkdir -p "$dir/run" "$dir/private" "$dir/state" "$dir/tmp"
environment=
if [ -n "$("$images/podman-environment.sh" "$dir/containers.conf")" ]; then
	export CONTAINERS_CONF="$dir/containers.conf"
	environment="CONTAINERS_CONF = \"$CONTAINERS_CONF\""
	# Newer podmans say at each call that they would rather have cgroup v2.
	export PODMAN_IGNORE_CGROUPSV1_WARNING=yes
	echo '    (podman on this machine needs a containers.conf of its own)'
fi
for image in busybox helpers; do
	tar=$("$images/make.sh" "$image")
	# The first use of a store may warn of networks that are not used here.
	podman import --quiet "$tar" "localhost/portcullis-demo-$image:1" >"$dir/out" 2>&1 || fail "$(cat "$dir/out")"
done
for name in "$network_a" "$network_b" "$tenant"; do ip netns add "$name"; done
ip -n "$network_a" link add tap0 type veth peer name eth0 address fa:16:3e:00:00:05 netns "$tenant"
ip -n "$network_a" address add 10.20.0.2/24 dev tap0
ip -n "$network_a" link set tap0 up
ip -n "$tenant" link set eth0 up
for network in "$a" "$b"; do
	files=$dir/neutron/dhcp/$network
	mkdir -p "$files"
	echo 'fa:16:3e:00:00:05,host-10-20-0-5.openstacklocal,10.20.0.5' >"$files/host"
	: >"$files/addn_hosts"
	: >"$files/opts"
	chown -R $uid:$uid "$files"
done

say 'Portcullis starts, for one agent: a launcher, and its broker without any rights.'
sed "s|@DIR@|$dir|" "$here/policy.toml" >"$dir/policy.toml"
cat >"$dir/portcullis.toml" <<END
[engine]
podman = "$podman"
global_args = ["--root=$dir/store", "--runroot=$dir/runroot", "--tmpdir=$dir/tmp"]
environment = { $environment }
[broker]
user = "nobody"
END
chmod 600 "$dir/policy.toml" "$dir/portcullis.toml"
start_launcher
sed 's/^/    /' "$dir/ping"

say "An agent's container, inside network A: user $uid, no capabilities, no engine's socket, the client as dnsmasq."
podman run --detach --name=demo-agent --network="ns:/run/netns/$network_a" --user=$uid:$uid --cap-drop=all \
	--security-opt=no-new-privileges --read-only --volume=/run/netns:/run/netns:ro \
	--volume="$dir/run:/run/portcullis:ro" --volume="$dir/neutron:/var/lib/neutron" \
	--volume="$bin/portcullis:/usr/sbin/dnsmasq:ro" --volume="$bin/portcullis:/usr/bin/portcullis:ro" \
	localhost/portcullis-demo-busybox:1 sleep 86400 >/dev/null
agent sh -c 'id; grep CapBnd /proc/self/status; ls -l /run/portcullis/*' | sed 's/^/    /'

say 'The agent calls dnsmasq with the arguments that Neutron gives:'
echo "    \$ dnsmasq --no-hosts --no-resolv --pid-file=/var/lib/neutron/dhcp/$a/pid ..."
neutron_dnsmasq "$a"
say 'It has returned: a side container runs on the host, and is ready. A DHCP client asks it for a lease:'
podman ps --filter=label=io.portcullis.agent=demo --format='    {{.Names}}  {{.Status}}'
started=$(container_and_process)
lease

say "Denied: files of network B, for the namespace of network A."
denied argument neutron_dnsmasq "$b"
say 'Denied: --dhcp-script=, which would run a program of the agent.'
denied argument neutron_dnsmasq "$a" --dhcp-script=/var/lib/neutron/own.sh
say "Denied: a namespace that is no network's."
denied netns agent portcullis run --netns="$tenant" dnsmasq --no-hosts

say "The agent's container is killed. Its dnsmasq still answers:"
podman kill demo-agent >/dev/null
podman wait demo-agent >/dev/null
dnsmasq_runs
lease

say 'Portcullis is stopped and started again. dnsmasq still answers:'
stop_launcher
start_launcher
dnsmasq_runs
lease

say 'What the operator finds in the audit log (where there is a journal, as its fields):'
grep '"verdict"' "$dir/log" | sed -E 's/("args":")([^"\\]|\\.)*"/\1..."/; s/,"/, "/g' | fold -s -w 116 | sed 's/^/    /'

step='cleaning up'
