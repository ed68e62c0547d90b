# crfs: `make demo` shows it, `make test` checks it, each on a fresh Debian 12 or 13.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PREFIX ?= /usr/local
SUDO := $(shell [ $$(id -u) = 0 ] || echo sudo)
BUILD_PACKAGES := fuse3 libfuse-dev libdeflate-dev libssl-dev pkg-config gcc g++ python3-dev python3-venv
TEST_PACKAGES := docker-registry skopeo umoci containerd runc stargz-snapshotter debootstrap attr fuse-overlayfs podman crun buildah strace git rsync stress-ng \
    e2fsprogs erofs-utils
BENCH_PACKAGES := docker-registry skopeo umoci containerd runc stargz-snapshotter debootstrap git
PEER_PACKAGES := podman crun fuse-overlayfs squashfs-tools squashfuse

.PHONY: all demo test bench deps test-deps bench-deps install clean

all: $(VENV)/.installed

INSTALL := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends

# $(call need,PACKAGES): a machine without apt has to have them already
define need
	@missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null; then $(SUDO) apt-get update -q && $(INSTALL) $$missing; fi
endef

deps:
	$(call need,$(BUILD_PACKAGES))

test-deps: deps
	$(call need,$(TEST_PACKAGES))

# of the peers each that can be had is taken: the others are reported as not here
bench-deps: deps
	$(call need,$(BENCH_PACKAGES))
	@for p in $(PEER_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || $(INSTALL) $$p || true; done

$(VENV)/bin/python: | deps
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py pyproject.toml $(wildcard pyx/*.pyx crfs/_native/*.pxd) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -e .
	$(VENV)/bin/python -m compileall -q crfs
	@touch $@

# mount(8) looks for `crfs` in the system's directories only
install: all
	$(SUDO) ln -sfn $(abspath $(VENV))/bin/crfs $(abspath $(VENV))/bin/crfs-overlayfs -t $(DESTDIR)$(PREFIX)/bin

demo: $(VENV)/.installed
	$(VENV)/bin/crfs demo

test: test-deps | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q 'tox>=4'
	$(VENV)/bin/tox run-parallel --parallel all --parallel-live

# BENCH_OPTIONS='--only start --runs 3' and the like; images are built once, into the user's cache directory
bench: bench-deps $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q -e '.[bench]'
	-$(VENV)/bin/python -m pip install -q ratarmount
	$(SUDO) $(VENV)/bin/python -m benches --report bench-report $(BENCH_OPTIONS)

clean:
	rm -rf build dist .tox $(VENV) *.egg-info
	find crfs -name '*.so' -delete
