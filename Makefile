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

cache := $(CURDIR)/.cache
bin := $(CURDIR)/.venv/bin
# The working tree, under the name that Ansible and the tests import it by.
link := .cache/collections/ansible_collections/flatnet/overlay

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: .venv/stamp $(link) ## What everything below needs: system packages, .venv, the collection's link

.venv/stamp: tests/requirements.txt .ci/packages
	.ci/packages
	@[ -n "$(PYTHON)" ] || { echo 'No Python 3.11 or later found; name one with PYTHON=' >&2; exit 1; }
	@echo 'Making .venv with $(PYTHON)'
	$(PYTHON) -m venv .venv
	$(bin)/pip install -qq --disable-pip-version-check -r tests/requirements.txt
	touch $@

$(link):
	mkdir -p $(@D)
	ln -sfn ../../../.. $@
