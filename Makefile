# flatnet.overlay. `make` lists what there is.
# Copyright (c) 2026, the flatnet.overlay authors
# SPDX-License-Identifier: GPL-3.0-or-later

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The distribution's Python where it is new enough, else the first on the path that is.
PYTHON ?= $(shell for p in /usr/bin/python3 python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

# The tools here, and those that they call themselves (ansible, ansible-playbook).
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The working tree, under the name that Ansible and the tests import it by.
link := .cache/collections/ansible_collections/flatnet/overlay

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: .venv/stamp $(link) ## What everything below needs: system packages, .venv, the collection's link

.cache/packages: .ci/packages
	.ci/packages
	@mkdir -p $(@D)
	@touch $@

.venv/stamp: tests/requirements.txt .cache/packages
	@[ -n "$(PYTHON)" ] || { echo 'No Python 3.11 or later found; name one with PYTHON=' >&2; exit 1; }
	@echo 'Making .venv with $(PYTHON)'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -qq --disable-pip-version-check -r tests/requirements.txt
	touch $@

$(link):
	mkdir -p $(@D)
	ln -sfn ../../../.. $@

# --- gates --------------------------------------------------------------------------------------------

gates := ruff mypy imports yamllint ansible-lint docs changelog
.PHONY: lint $(gates)
lint: $(gates) ## ruff, mypy, import-linter, yamllint, ansible-lint, antsibull-docs, antsibull-changelog

$(gates): venv

ruff:
	ruff check --output-format concise
	ruff format --check

mypy:
	mypy

imports:
	PYTHONPATH=.cache/collections lint-imports --cache-dir .cache/imports

yamllint:
	yamllint --strict .

ansible-lint:
	ansible-lint

docs:
	antsibull-docs lint-collection-docs --plugin-docs \
		--validate-collection-refs dependent --disallow-unknown-collection-refs .

changelog:
	antsibull-changelog lint

.PHONY: format
format: venv ## Lay out the Python as the gate wants it
	ruff check --fix
	ruff format

.PHONY: sanity
sanity: venv ## ansible-test sanity on the built and installed collection
	.ci/sanity $(ARGS)

# --- tests --------------------------------------------------------------------------------------------

.PHONY: unit integration
unit: venv ## tests/unit
	pytest -n auto tests/unit $(ARGS)

integration: venv ## tests/integration: in the lab, on real etcd and netlink (root)
	pytest -n auto --dist loadfile tests/integration $(ARGS)

.PHONY: soak
soak: venv ## 10,000 random events against a model (EVENTS=, SEED=) (root)
	FLATNET_EVENTS=$(or $(EVENTS),10000) FLATNET_SEED=$(or $(SEED),0) \
		pytest -s tests/integration/sync/test_events.py $(ARGS)

.PHONY: interruptions
interruptions: venv ## Modules and playbooks killed after every step; `make integration` takes every third (root)
	FLATNET_EVERY=1 pytest -n auto --dist loadfile -k 'killed or interrupted' \
		tests/integration/attacks tests/integration/site/test_cases.py $(ARGS)

.PHONY: fuzz
fuzz: venv ## The relay: 1,000,000 spoilt datagrams and frames, a minute of load (COUNT=, SEED=) (root)
	FLATNET_FUZZ=$(or $(COUNT),1000000) FLATNET_SEED=$(or $(SEED),0) \
		pytest -n auto tests/unit/relay/test_fuzz.py $(ARGS)
	FLATNET_FUZZ=$(or $(COUNT),1000000) FLATNET_SEED=$(or $(SEED),0) FLATNET_LOAD=60 \
		FLATNET_STREAMS=40 pytest tests/integration/relay/test_load.py \
		tests/integration/relay/test_streams.py tests/integration/relay/test_fuzz.py $(ARGS)

.PHONY: test
test: venv ## All gates and all tests
	@echo 'Gates and unit tests, two at a time; each shows its output when it is done'
	TIMEFORMAT='Gates and unit tests: %1lR'; \
	time $(MAKE) --no-print-directory --keep-going -j2 --output-sync=target lint sanity unit
	TIMEFORMAT='Integration tests: %1lR'; time $(MAKE) --no-print-directory integration

.PHONY: matrix
matrix: venv ## The tests with other versions of ansible-core, pyroute2, Python (ARGS='oldest newest')
	.ci/matrix $(ARGS)

.PHONY: bench
bench: venv ## The targets for speed, into docs/performance.md (ARGS='--quick', ARGS='kernel watch') (root)
	[ -n '$(findstring --quick,$(ARGS))' ] || \
		pip install -qq --disable-pip-version-check -r tests/bench/requirements.txt
	python -m tests.bench $(ARGS)

.PHONY: bench-relay
bench-relay: venv ## The relay beside what else carries packets (FLANNELD=, ARGS='--quick') (root)
	FLANNELD='$(FLANNELD)' python -m tests.bench.relay $(ARGS)

# --- use ----------------------------------------------------------------------------------------------

.PHONY: demo
demo: venv ## A lab, site.yml, a pod per host, all pairs pinged (BACKEND=vxlan|host-gw|udp|alloc, KEEP=1) (root)
	@BACKEND='$(BACKEND)' KEEP='$(KEEP)' python -m tests.lab.demo

.PHONY: build
build: ## The collection's artifact, in the current folder (needs ansible-core only)
	@command -v ansible-galaxy >/dev/null || $(MAKE) --no-print-directory venv
	ansible-galaxy collection build --force

.PHONY: clean
clean: ## Remove .venv, .cache and what was built
	rm -rf .venv .cache .ansible .hypothesis flatnet-overlay-*.tar.gz
