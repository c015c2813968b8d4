# Portcullis. `./demo.sh` and `./test.sh` are this file's `demo` and `lint test` on a machine that lacks even make.
#
#   make build                         the four binaries, in target/dist/bin
#   make demo                          watch an agent start a real dnsmasq through a policy
#   make test                          all tests, with real podman; a table of what ran at the end
#   make host-test                     those alone that boot a machine with systemd and install the package in it
#   make lint                          formatting, clippy, shellcheck
#   make bench                         numbers, in target/bench; some of them from a booted machine, as in host-test;
#                                      PORTCULLIS_BEFORE=DIR: also beside the older binaries in that folder
#   make package                       .deb, .rpm and the client's .tar.gz, in target/dist; `make deb` the first alone
#   make install DESTDIR= PREFIX=      binaries, units, presets and manual pages, from what `make build` left
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
.PHONY: build demo test host-test test-inputs lint bench deb package install uninstall clean

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

# Images for the tests' podmans, and what the host tests boot and install.
test-inputs: deb
	images/host-packages.sh run test
	images/make.sh busybox
	$(SUDO) images/make.sh helpers
	$(SUDO) tests/host/root.sh

# The instruction counts of benches/ are gated in here, too.
test: test-inputs
	host=$(HOST); $(RUN_AS_ROOT)
	status=0
	$(CARGO) test --workspace --no-fail-fast 2>&1 | tee target/test.log || status=$$?
	awk -f images/test-summary.awk target/test.log
	exit $$status

host-test: test-inputs
	host=$(HOST); $(RUN_AS_ROOT)
	$(CARGO) test -p portcullis-tests --test host

lint:
	images/host-packages.sh build lint
	$(CARGO) fmt --all --check
	if $(CARGO) clippy --version >/dev/null 2>&1; then
		$(CARGO) clippy --workspace --all-targets -- -D warnings
	else
		echo 'lint: this Rust comes without clippy: NOT checked'
	fi
	shellcheck *.sh images/*.sh demo/*.sh tests/host/*.sh tests/spool/field/*.sh .ci/run
	if command -v cargo-deny >/dev/null; then $(CARGO) deny check; fi

# What the tests need: a part of it is measured in the machine that they boot, with the package installed.
bench: test-inputs
	host=$(HOST); $(RUN_AS_ROOT)
	$(CARGO) run --release -p portcullis-benches --bin bench

# Pinned, so that a package is the same today and tomorrow; built once, into target/tools, and unoptimized: they run for a
# second. In a directory of cargo's own: their two hundred crates are of no further use.
DEB := cargo-deb@3.8.0
RPM := cargo-generate-rpm@0.21.1
tool = [ -x "target/tools/$(1)/bin/$(firstword $(subst @, ,$(1)))" ] || \
	env -u CARGO_TARGET_DIR $(CARGO) install --debug --locked --root "target/tools/$(1)" "$(1)"

# What is in a package is what `make install` makes: there is one list of files.
# (`make` by its name: by $(MAKE) in it, `make -n` would run the whole recipe.)
deb: build
	$(call tool,$(DEB))
	rm -rf target/dist/{root,pages} target/dist/*.deb
	$(CARGO) run --quiet -p portcullis-policy --example pages -- target/dist/pages
	make --no-print-directory install DESTDIR="$(CURDIR)/target/dist/root" PREFIX=/usr
	for package in host client; do
		images/host-rust.sh target/tools/$(DEB)/bin/cargo-deb --quiet --no-build --no-strip --no-dbgsym \
			-p portcullis-policy --variant=$$package --output target/dist/
	done

package: deb
	$(call tool,$(RPM))
	rm -f target/dist/*.{rpm,tar.gz}
	for package in host client; do
		images/host-rust.sh target/tools/$(RPM)/bin/cargo-generate-rpm -p policy --variant=$$package \
			--output target/dist/
	done
	# For `ADD … /` in an image. Files alone: a directory in it would change the mode of the image's own.
	version=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
	tar --create --gzip --file="target/dist/portcullis-client-$$version-$$(uname -m).tar.gz" --directory=target/dist/root \
		--owner=root:0 --group=root:0 usr/bin/portcullis
	ls -l target/dist/*.{deb,rpm,tar.gz}

# The units name the binaries by their installed path. `make build` first, as the user who builds.
install:
	for binary in portcullis portcullis-policy; do
		install -D -m 0755 -t "$(DESTDIR)$(PREFIX)/bin" "$(BIN)/$$binary"
	done
	for binary in portcullis-broker portcullis-launcher; do
		install -D -m 0755 -t "$(DESTDIR)$(PREFIX)/libexec/portcullis" "$(BIN)/$$binary"
	done
	install -d "$(DESTDIR)$(PREFIX)/lib/systemd/system"
	shopt -s nullglob
	for unit in systemd/*.{socket,path,service,target}; do
		sed -E 's@/usr/(libexec|bin|share/doc)/portcullis@$(PREFIX)/\1/portcullis@' "$$unit" >"$(DESTDIR)$(PREFIX)/lib/systemd/system/$${unit#systemd/}"
	done
	for preset in systemd/*.preset; do
		install -D -m 0644 -t "$(DESTDIR)$(PREFIX)/lib/systemd/system-preset" "$$preset"
	done
	install -D -m 0644 systemd/portcullis.sysusers "$(DESTDIR)$(PREFIX)/lib/sysusers.d/portcullis.conf"
	install -D -m 0644 systemd/portcullis.tmpfiles "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/portcullis.conf"
	install -D -m 0644 -t "$(DESTDIR)$(PREFIX)/share/portcullis/presets" presets/*.toml
	install -D -m 0644 -t "$(DESTDIR)$(PREFIX)/share/doc/portcullis" README.md SECURITY.md CHANGELOG.md
	install -D -m 0644 -t "$(DESTDIR)$(PREFIX)/share/doc/portcullis/docs" docs/*.md
	install -D -m 0644 -t "$(DESTDIR)$(PREFIX)/share/doc/portcullis/docs/decisions" docs/decisions/*.md
	install -D -m 0644 -t "$(DESTDIR)$(PREFIX)/share/doc/portcullis/tests" tests/attacks.md
	# What `make package` has made of the operator's tool is put beside, where it is there.
	share="$(DESTDIR)$(PREFIX)/share" pages=target/dist/pages/
	for page in packaging/man/* $${pages}*.1; do
		install -D -m 0644 -t "$$share/man/man$${page##*.}" "$$page"
	done
	if [ -d $$pages ]; then
		install -D -m 0644 $${pages}portcullis-policy.bash "$$share/bash-completion/completions/portcullis-policy"
		install -D -m 0644 -t "$$share/zsh/site-functions" $${pages}_portcullis-policy
		install -D -m 0644 -t "$$share/fish/vendor_completions.d" $${pages}portcullis-policy.fish
	fi
	install -d -m 0755 "$(DESTDIR)/etc/portcullis/agents"

# Policies, launch records and side containers stay.
uninstall:
	rm -rf "$(DESTDIR)$(PREFIX)"/libexec/portcullis "$(DESTDIR)$(PREFIX)"/share/{,doc/}portcullis
	rm -f "$(DESTDIR)$(PREFIX)"/share/man/man?/portcullis{,-*,.toml}.? \
		"$(DESTDIR)$(PREFIX)"/share/bash-completion/completions/portcullis-policy \
		"$(DESTDIR)$(PREFIX)"/share/zsh/site-functions/_portcullis-policy \
		"$(DESTDIR)$(PREFIX)"/share/fish/vendor_completions.d/portcullis-policy.fish
	rm -f "$(DESTDIR)$(PREFIX)"/bin/portcullis{,-policy} \
		"$(DESTDIR)$(PREFIX)"/lib/systemd/system/portcullis{@.socket,-spool@.path,@.service,.target} \
		"$(DESTDIR)$(PREFIX)"/lib/systemd/system-preset/90-portcullis.preset \
		"$(DESTDIR)$(PREFIX)"/lib/{sysusers,tmpfiles}.d/portcullis.conf

clean:
	$(SUDO) rm -rf target
