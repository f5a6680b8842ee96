# Everything a person does with this tree. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test vm lint bench images install uninstall clean fuzz

PREFIX ?= /usr/local
DESTDIR ?=
SHARE := $(DESTDIR)$(PREFIX)/share
BASH_COMPLETION := $(SHARE)/bash-completion/completions/ctl
ZSH_COMPLETION := $(SHARE)/zsh/site-functions/_ctl
FISH_COMPLETION := $(SHARE)/fish/vendor_completions.d/ctl.fish
IMAGES := target/images
HOST = $(shell rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
PACKAGES := curl=curl cc=gcc tar=tar /etc/ssl/certs/ca-certificates.crt=ca-certificates mmdebstrap=mmdebstrap /usr/share/doc/busybox-static=busybox-static
TEST_PACKAGES := $(PACKAGES) fusermount3=fuse3 fuse-overlayfs=fuse-overlayfs podman=podman buildah=buildah newuidmap=uidmap docker=docker.io setfattr=attr setpriv=util-linux ip=iproute2 docker-registry=docker-registry skopeo=skopeo mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs bsdtar=libarchive-tools umoci=umoci zstd=zstd setfacl=acl fsck.erofs=erofs-utils runc=runc /lib/systemd/systemd-journald=systemd qemu-system-x86_64=qemu-system-x86 cpio=cpio mke2fs=e2fsprogs dpkg-deb=dpkg

VM_PACKAGES := qemu-system-x86_64=qemu-system-x86 cpio=cpio mke2fs=e2fsprogs dpkg-deb=dpkg docker=docker.io getfattr=attr bunzip2=bzip2

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## build, make real images, and walk through it all on screen (KEEP=1 leaves the daemon up)
	@scripts/packages $(PACKAGES)
	cargo build --release --workspace --bins
	@scripts/make-images $(IMAGES)
	@scripts/demo $(IMAGES)

test: ## packages, build, all tests
	@scripts/packages $(TEST_PACKAGES)
	@scripts/make-images $(IMAGES)
	cargo build --workspace --bins
	@# Output of tests that pass is shown, so that what was skipped is seen, and told once more at the end. It goes through
	@# a file: a pipe would stay open for as long as a process that a failed test left behind.
	@mkdir -p target; export CARGO_TARGET_$(HOST)_RUNNER="$(abspath scripts/run-test)"; \
	FSD_TEST_IMAGES=$(abspath $(IMAGES)/debian-rootfs.tar) scripts/all-tests > target/test.log 2>&1 < /dev/null & \
	tail -n +1 -s 0.2 -F --pid=$$! target/test.log 2> /dev/null; status=0; wait $$! || status=$$?; \
	scripts/skipped target/test.log; exit $$status

vm: ## boot Linux 6.1 in a virtual machine, with cgroup v2 and with v1, and run containers there on every driver
	@scripts/packages $(PACKAGES) $(VM_PACKAGES)
	cargo build --release --workspace --bins
	@scripts/make-images $(IMAGES)
	@scripts/vm-test target/vm $(IMAGES)/busybox.tar

bench: ## measure beside docker.io, podman and skopeo, on the image that scripts/make-bench-image makes; JSON beside it
	@scripts/packages $(TEST_PACKAGES) dockerd=docker.io podman=podman runc=runc pip=python3-pip npm=npm
	cargo build --release --workspace --bins
	@scripts/make-images $(IMAGES)
	@scripts/make-bench-image $(IMAGES)
	target/release/ingest $(IMAGES)/debian-rootfs.tar --json $(IMAGES)/ingest.json
	target/release/mounts $(IMAGES)/debian-rootfs.tar --json $(IMAGES)/mounts.json
	target/release/images $(IMAGES)/bench.tar --json $(IMAGES)/images.json
	target/release/trees $(IMAGES)/bench.tar --json $(IMAGES)/trees.json
	target/release/load $(IMAGES)/bench.tar bench:1 --json $(IMAGES)/load.json
	target/release/run $(IMAGES)/bench.tar bench:1 --json $(IMAGES)/run.json
	target/release/fuse $(IMAGES)/bench.tar --json $(IMAGES)/fuse.json

images: ## make the real images that tests and demo use
	@scripts/packages $(PACKAGES)
	@scripts/make-images $(IMAGES)

fuzz: ## fuzz what is read from strangers (SECONDS=60 for each target)
	@scripts/fuzz $(or $(SECONDS),60)

lint: ## formatting, clippy and documentation, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	@if command -v cargo-deny > /dev/null; then cargo deny --offline check bans licenses sources; \
	else echo "SKIPPED: cargo deny: not installed (cargo install cargo-deny)"; fi

install: ## put programs and units in place (PREFIX, DESTDIR)
	cargo build --release --workspace --bins
	install -D -m 755 target/release/fsd $(DESTDIR)$(PREFIX)/sbin/fsd
	install -D -m 755 target/release/fsd-shim $(DESTDIR)$(PREFIX)/sbin/fsd-shim
	install -D -m 755 target/release/ctl $(DESTDIR)$(PREFIX)/bin/ctl
	install -D -m 755 target/release/fsd-fuse $(DESTDIR)$(PREFIX)/bin/fsd-fuse
	target/release/ctl man $(SHARE)/man/man1
	target/release/fsd man $(SHARE)/man/man8
	target/release/fsd-fuse --man $(SHARE)/man/man8
	install -d $(dir $(BASH_COMPLETION) $(ZSH_COMPLETION) $(FISH_COMPLETION))
	target/release/ctl completions bash > $(BASH_COMPLETION)
	target/release/ctl completions zsh > $(ZSH_COMPLETION)
	target/release/ctl completions fish > $(FISH_COMPLETION)
	install -d $(DESTDIR)/usr/lib/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' packaging/fsd.service > $(DESTDIR)/usr/lib/systemd/system/fsd.service
	install -m 644 packaging/fsd.socket $(DESTDIR)/usr/lib/systemd/system/fsd.socket
	install -D -m 644 packaging/fsd.sysusers $(DESTDIR)/usr/lib/sysusers.d/fsd.conf

uninstall: ## take away what install put in place
	rm -f $(DESTDIR)$(PREFIX)/sbin/fsd $(DESTDIR)$(PREFIX)/sbin/fsd-shim $(DESTDIR)$(PREFIX)/bin/ctl $(DESTDIR)$(PREFIX)/bin/fsd-fuse $(DESTDIR)/usr/lib/sysusers.d/fsd.conf
	rm -f $(SHARE)/man/man1/ctl.1 $(SHARE)/man/man1/ctl-*.1 $(SHARE)/man/man8/fsd.8 $(SHARE)/man/man8/fsd-*.8
	rm -f $(BASH_COMPLETION) $(ZSH_COMPLETION) $(FISH_COMPLETION)
	rm -f $(DESTDIR)/usr/lib/systemd/system/fsd.service $(DESTDIR)/usr/lib/systemd/system/fsd.socket

clean: ## remove what was built
	cargo clean
