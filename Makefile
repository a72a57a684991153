# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
BIN := build/venv/bin
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build/sym:$(CURDIR)/build/collections
export ANSIBLE_HOME := $(CURDIR)/build/ansible
# ansible and its tools are called by name, and by each other.
export PATH := $(CURDIR)/$(BIN):$(PATH)
BACKEND ?= localkey
# A short path: ansible-core makes sockets below it, and a socket's path has 107 characters at most.
INTEGRATION = base=$$(mktemp -d /tmp/hs.XXXX) && trap "rm -rf $$base" EXIT && \
	python -m pytest -n 2 --dist loadfile --durations=50 --durations-min=10 --basetemp=$$base tests/integration
# More arguments for pytest or ansible-test, for example ARGS='-k envelope'.
ARGS ?=

.PHONY: help setup unit agent integration test molecule lint docs format sanity matrix release bench faults quickstart quickstart-clean engine-stop clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing: packages, build/venv, build/collections
	@tests/rig/setup.sh

unit: setup ## Unit tests, without Docker; ARGS="-m thorough": those that are
	python -m pytest -n 4 --dist worksteal -m "not thorough" tests/unit $(ARGS)

agent: setup ## Tests of the agent as a process of its own, without Docker
	python -m pytest -n 4 --dist worksteal -m "not thorough" tests/agent $(ARGS)

integration: setup ## All integration tests, on throwaway hosts
	$(INTEGRATION) $(ARGS)

test: setup ## Unit, agent and integration tests, those that are thorough left out
	python -m pytest -n 4 --dist worksteal -m "not thorough" tests/unit tests/agent
	$(INTEGRATION) -m "not thorough"

molecule: setup ## Molecule's scenarios; SCENARIO=vault: one of them
	@trap "python -m tests.rig engine-stop --if-idle" EXIT; molecule test $(if $(SCENARIO),--scenario-name $(SCENARIO),--all)

lint: setup ## Everything that reads the code: style, types, documentation, ansible-test sanity
	tests/rig/lint.sh

docs: setup ## The documentation site, in build/docs/html
	rm -rf build/docs/source && mkdir -p -m 755 build/docs/source/reference
	cp -r docs/*.md docs/images build/docs/source
	@# What is not among the pages is in the repository.
	sed -i 's,](\.\./,](https://github.com/hostseal/hostseal.secrets/blob/main/,' build/docs/source/*.md
	antsibull-docs collection --fail-on-error --use-current --squash-hierarchy \
		--dest-dir build/docs/source/reference hostseal.secrets
	@# The theme has tables of contents at the side, and puts an error into pages that bring their own.
	sed -i '/^\.\. contents::/,/^$$/d' build/docs/source/reference/*.rst
	sphinx-build --fail-on-warning --quiet -d build/docs/doctrees -c docs build/docs/source build/docs/html

format: setup ## Bring Python files into shape
	ruff check --select I --fix .
	ruff format .

sanity: setup ## ansible-test sanity alone
	tests/rig/sanity.sh $(ARGS)

matrix: setup ## Every supported ansible-core and Python: unit tests, a short integration run, sanity; ARGS='2.22 agent-3.9'
	python -m tests.matrix $(ARGS)

release: setup ## Changelog, tag, tarball, bill of materials, checksums: VERSION=1.2.3; DRY_RUN=1: in a clone, twice, and installed
	python -m tests.release $(VERSION) $(if $(DRY_RUN),--dry-run)

bench: setup ## Measure against the targets
	python -m tests.benchmarks $(ARGS)

faults: setup ## Kills at every system call, power cuts, full disks, churn: does the agent keep its promises? ARGS='--seed 1 --short'
	python -m tests.faults $(ARGS)

quickstart: setup ## The whole way on a throwaway host, with a real database server; BACKEND=vault: with OpenBao
	BACKEND=$(BACKEND) quickstart/run

quickstart-clean: ## Remove the quickstart's host, and the engine when the rig started it and nothing else uses it
	@if [ -x $(BIN)/python ]; then python -m tests.rig down quickstart && python -m tests.rig vault-down quickstart && python -m tests.rig engine-stop --if-idle; fi
	@rm -rf build/quickstart

engine-stop: ## Remove all throwaway hosts of this checkout and end the engine that the rig started
	@if [ -x $(BIN)/python ]; then python -m tests.rig engine-stop; fi

clean: ## Remove hosts, engine and everything that was built
	@if [ -x $(BIN)/python ]; then python -m tests.rig forget; python -m tests.rig engine-stop; fi
	rm -rf build
