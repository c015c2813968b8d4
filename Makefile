# Portcullis. `./demo.sh` and `./test.sh` are this file's `demo` and `lint test` on a machine that lacks even make.
#
#   make build                         the four binaries, in target/dist/bin
#   make demo                          watch an agent start a real dnsmasq through a policy
#   make test                          all tests, with real podman; a table of what ran at the end
#   make lint                          formatting, clippy, shellcheck
#   make bench                         numbers, in target/bench
#   make install DESTDIR= PREFIX=      binaries, systemd units and /etc/portcullis, from what `make build` left
#   make uninstall DESTDIR= PREFIX=    the same away again, except /etc/portcullis
#   make clean
#
# What needs root (podman, namespaces, apt) goes through sudo; nothing else does.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
.ONESHELL:
.SILENT:
.NOTPARALLEL:
.PHONY: build demo test lint bench install uninstall clean

DESTDIR ?=
PREFIX ?= /usr/local
BIN := target/dist/bin
CARGO := images/host-rust.sh cargo
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
# The tests and the images look here.
export CARGO_TARGET_DIR := $(CURDIR)/target

# rustc's name of this machine, and the variable by which cargo starts what it has built as root.
HOST = $$(images/host-rust.sh rustc -vV | sed -n 's/^host: //p')
RUN_AS_ROOT = $(if $(SUDO),export CARGO_TARGET_$$(tr a-z- A-Z_ <<<"$$host")_RUNNER="sudo --preserve-env";)

# One target and one set of flags for all four: each dependency is built once, and none of them loads a library of the
# system it runs on, be it a container's or a host's. The client alone takes musl where that is installed: half the size.
build:
	images/host-packages.sh build
	host=$(HOST); client=$$host; musl=$${host/-gnu/-musl}
	if [ -d "$$(images/host-rust.sh rustc --print target-libdir --target "$$musl")" ]; then client=$$musl; fi
	export RUSTFLAGS="$${RUSTFLAGS:-} -C target-feature=+crt-static"
	$(CARGO) build --profile dist --target "$$host" -p portcullis-broker -p portcullis-launcher -p portcullis-policy
	$(CARGO) build --profile dist --target "$$client" -p portcullis
	install -D -t $(BIN) "target/$$client/dist/portcullis" \
		"target/$$host/dist/"portcullis-{broker,launcher,policy}

demo: build
	images/host-packages.sh run
	$(SUDO) demo/run.sh

# The instruction counts of benches/ are gated in here, too.
test: build
	images/host-packages.sh run test
	images/make.sh busybox
	$(SUDO) images/make.sh helpers
	host=$(HOST); $(RUN_AS_ROOT)
	status=0
	$(CARGO) test --workspace --no-fail-fast 2>&1 | tee target/test.log || status=$$?
	awk -f images/test-summary.awk target/test.log
	exit $$status

lint:
	images/host-packages.sh build lint
	$(CARGO) fmt --all --check
	if $(CARGO) clippy --version >/dev/null 2>&1; then
		$(CARGO) clippy --workspace --all-targets -- -D warnings
	else
		echo 'lint: this Rust comes without clippy: NOT checked'
	fi
	shellcheck *.sh images/*.sh demo/*.sh .ci/run
	if command -v cargo-deny >/dev/null; then $(CARGO) deny check; fi

bench: build
	images/host-packages.sh run test
	images/make.sh busybox
	host=$(HOST); $(RUN_AS_ROOT)
	$(CARGO) run --release -p portcullis-benches --bin bench

# The units name the binaries by their installed path. `make build` first, as the user who builds.
install:
	for binary in portcullis portcullis-policy; do
		install -D -m 0755 -t "$(DESTDIR)$(PREFIX)/bin" "$(BIN)/$$binary"
	done
	for binary in portcullis-broker portcullis-launcher; do
		install -D -m 0755 -t "$(DESTDIR)$(PREFIX)/libexec/portcullis" "$(BIN)/$$binary"
	done
	install -d "$(DESTDIR)$(PREFIX)/lib/systemd/system"
	for unit in systemd/portcullis@.socket systemd/portcullis@.service; do
		sed 's|/usr/libexec/|$(PREFIX)/libexec/|' "$$unit" >"$(DESTDIR)$(PREFIX)/lib/systemd/system/$${unit#systemd/}"
	done
	install -D -m 0644 systemd/portcullis.sysusers "$(DESTDIR)$(PREFIX)/lib/sysusers.d/portcullis.conf"
	install -D -m 0644 systemd/portcullis.tmpfiles "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/portcullis.conf"
	install -d -m 0755 "$(DESTDIR)/etc/portcullis/agents"

# Policies, launch records and side containers stay.
uninstall:
	rm -rf "$(DESTDIR)$(PREFIX)/libexec/portcullis"
	rm -f "$(DESTDIR)$(PREFIX)"/bin/portcullis{,-policy} \
		"$(DESTDIR)$(PREFIX)"/lib/systemd/system/portcullis@.{socket,service} \
		"$(DESTDIR)$(PREFIX)"/lib/{sysusers,tmpfiles}.d/portcullis.conf

clean:
	$(SUDO) rm -rf target
