# `make help` lists what there is.
PYTHON ?= python3
ifneq ($(origin PYTHON),file)
export HORTUS_PYTHON := $(PYTHON)
endif
PY := .venv/bin/python
BOOTSTRAP := $(PYTHON) compose/local/bootstrap.py
COMPILE := $(BOOTSTRAP) uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help .venv up down status demo check test bench contracts lock migrate recover pki

help: ## this list
	@awk -F ':.*## ' '/^[.a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.venv: ## install what the locks name into .venv
	@$(BOOTSTRAP) </dev/null

up: .venv ## install, start everything, print the address and the administrator's one-time link
	@$(PY) -m compose.local up </dev/null

down: ## stop everything that `make up` started
	@if [ -x $(PY) ]; then $(PY) -m compose.local down </dev/null; else echo "Hortus was not running."; fi

status: .venv ## every part, its memory, and what it misses
	@$(PY) -m compose.local status </dev/null

demo: .venv ## one study from beginning to end, in a state folder of its own
	@$(PY) -m examples.wdbc.demo </dev/null

check: .venv ## linters, types, and the rules of the architecture
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m pytest tests/architecture -q

test: .venv ## everything that runs, on servers that it starts and stops; the rules of the architecture are `make check`'s
	$(PY) -m pytest --ignore=tests/architecture </dev/null

bench: .venv ## the figures of one area: make bench AREA=gateway
	@test -n "$(AREA)" || { echo "Name an area: make bench AREA=gateway (there are: $$(ls bench/*.py | sed 's|bench/||; s|\.py||; /^_/d' | tr '\n' ' '))"; exit 2; }
	$(PY) -m bench.$(AREA) </dev/null

contracts: .venv ## write the golden files and generated pages anew
	$(PY) -m chassis.golden

migrate: .venv ## bring the running suite's databases up to date
	@$(PY) -m compose.local migrate </dev/null

recover: .venv ## a new one-time link for an administrator who cannot sign in: make recover NAME=ada00000
	@test -n "$(NAME)" || { echo "Name the account: make recover NAME=ada00000"; exit 2; }
	@$(PY) -m compose.local recover "$(NAME)" </dev/null

pki: .venv ## the certificate authorities: names, ends, fingerprints; DO=renew makes new intermediates, DO=renew-root a new root too
	@$(PY) -m compose.local pki $(DO)

lock: ## write the lock files of requirements/ anew
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) requirements/suite.in -o requirements/suite.txt
	$(COMPILE) requirements/dev.in -o requirements/dev.txt
	$(COMPILE) requirements/torch.in -o requirements/torch.txt
