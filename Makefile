# `make demo` shows the main job on a real cluster; `make test` runs everything. Both install what is missing first.
# Root, or sudo, is needed: namespaces, BPF and packages are the machine's.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check
STEP := python3 tests/step.py
INSTALL := $(SUDO) sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@"' --
PYTEST := $(SUDO) $(PYTHON) -m pytest
TESTBED := cd tests/cluster && $(SUDO) ../../$(PYTHON) -m testbed
EXTRAS := operator,dataplane,cli,dev
PACKAGES := tests/cluster/debian-packages.txt

.PHONY: help demo down test packages build setup cluster bench chaos bench-scale lint clean \
	test-unit test-vectors test-bpf test-netns test-kernels test-kernels-arm64 test-cluster kernels-table

help: ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: setup ## the main job on a three-node cluster, step by step; leaves it up
	$(SUDO) $(PYTHON) examples/demo/demo.py

down: ## ends the cluster and all that it started
	$(TESTBED) down

test: setup lint test-unit test-vectors test-bpf test-netns test-kernels test-cluster ## everything, as CI runs it

test-unit: build ## pure parts: seconds
	$(PYTEST) tests/unit tests/cluster/testbed

test-vectors: build ## packets through the loaded programs and through the engine
	$(PYTEST) tests/vectors

test-bpf: build ## the programs in the kernel
	$(PYTEST) tests/bpf

test-netns: build ## real TCP between namespaces, no Kubernetes
	$(PYTEST) tests/netns

test-kernels: build ## the programs in Debian's kernels, emulated
	$(PYTEST) tests/kernels

test-kernels-arm64: build ## the same for arm64, cross-compiled; not a part of `make test`
	@$(MAKE) --no-print-directory packages PACKAGES=tests/kernels/arm64-packages.txt
	cd tests && $(SUDO) env PYTHONPATH=cluster ../$(PYTHON) -m kernels arm64

kernels-table: build ## writes what the verifier counts in each kernel into docs/kernels.md
	cd tests && $(SUDO) env PYTHONPATH=cluster ../$(PYTHON) -m kernels table

test-cluster: setup ## the three-node cluster
	$(PYTEST) tests/cluster --ignore tests/cluster/testbed

bench: setup bench-scale ## ratios against direct and kube-proxy, and the operator at full size; stored in bench/results
	@$(MAKE) --no-print-directory packages PACKAGES=bench/debian-packages.txt
	$(SUDO) $(PYTHON) bench/bench.py

bench-scale: setup ## the operator with 1,000 pools and 10,000 servers; SCALE="--pools 100" for less
	$(SUDO) $(PYTHON) bench/scale.py $(SCALE)

chaos: setup ## failures at random moments for DURATION seconds (600); the result goes to docs/chaos.md
	$(SUDO) env PYTHONPATH=tests/cluster:tests:examples/demo $(PYTHON) tests/cluster/chaos.py $(or $(DURATION),600) $(SEED)

lint: $(VENV)/.installed ## ruff, and the one direction of imports
	$(VENV)/bin/ruff check .

setup: build ## packages, virtual environment, extensions, Kubernetes, Helm and Jaeger
	$(TESTBED) setup
	$(TESTBED) build

build: $(VENV)/.installed ## BPF programs and Cython extensions, in place
	@$(STEP) "Compiling the BPF programs and the engine" 40 $(PYTHON) setup.py --quiet build_ext --inplace

packages: ## Debian packages that are missing
	@missing=$$(for name in $$(grep -v '^#' $(PACKAGES)); do \
		dpkg-query -W -f '$${Status}' $$name 2>/dev/null | grep -q 'ok installed' || echo $$name; done | tr '\n' ' '); \
	if [ -n "$$missing" ]; then \
		echo "Debian packages: $$missing"; \
		command -v python3 > /dev/null || { echo "Installing python3 first: takes about 15 s"; $(INSTALL) python3 > /dev/null; }; \
		$(STEP) "Installing Debian packages" 90 $(INSTALL) $$missing; \
	fi

$(VENV)/.installed: pyproject.toml setup.py $(PACKAGES)
	@$(MAKE) --no-print-directory packages
	@/usr/bin/python3 -m venv $(VENV)
	@$(STEP) "Python's build tools" 8 $(PIP) 'setuptools>=77' 'cython>=3.1' wheel
	@$(STEP) "Python packages and the project's own" 60 $(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

clean: ## what was built in the tree; the caches stay
	$(SUDO) rm -rf build dist $(VENV) *.egg-info
	$(SUDO) find dataplane -name '*.so' -delete -o -name '*.bpf.o' -delete
