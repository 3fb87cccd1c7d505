# Everything that is run, is run from here; .ci/run calls these targets too. Needs make and Python 3.11 or newer, nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The distribution's Python comes first: it is built with profile-guided optimisation, which pyenv leaves out (a quarter slower).
PYTHON ?= $(firstword $(foreach name,/usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := $(VENV)/.compiled
NATIVE := .run/native
CHECK ?=
WORKERS ?= logical
# Of a module that is never compiled, the tests among all others say the same.
INTERPRETED := tests/hostile $(addprefix tests/unit/,generate observe policy sandbox sandbox_sdk serve store upstream)
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS)

.PHONY: help setup compiled interpreted warm demo test lint fix bench load soak lock clean

help: ## show this
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(COMPILED) ## make .venv from requirements.lock, and compile the modules on a request's path

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV) (once; a few minutes on a slow network)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@EDGECACHE_COMPILE=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

compiled: $(COMPILED)

$(COMPILED): $(NATIVE).made
	@# Of the age of what it holds: sources that were edited since that was made are newer.
	@cp -r $(NATIVE)/. . && touch -r $< $@

$(NATIVE).made: $(STAMP) setup.py $(shell find edgecache sandbox -name '*.py')
	@echo "compiling (a minute at first; skipped without a C compiler and Python's headers)"
	@# A cache of its own, and none from before: of one that is not wholly its own, mypyc makes nothing.
	@rm -rf .run/mypyc $(NATIVE) && mkdir -p $(NATIVE) && touch $@.begun
	@MYPY_CACHE_DIR=.run/mypyc $(BIN)/python setup.py --quiet build_ext --build-lib $(NATIVE) \
		>.run/compile.log 2>&1 || { tail -n 30 .run/compile.log >&2; exit 1; }
	@mv $@.begun $@

interpreted: ## forget what was compiled: an edit of a module is seen at once
	@find edgecache sandbox -name '*.so' -delete
	@rm -f $(COMPILED)

demo: $(COMPILED) ## origin, edge and example generators, with a guided tour; CHECK=1 walks it unattended
	@$(BIN)/python -m demo $(if $(filter-out 0,$(CHECK)),--check)

lint: $(STAMP) ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fix: $(STAMP) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

warm: $(STAMP)
	@$(BIN)/python -c 'from sandbox.sdk import warm_up; warm_up(on_progress=print)'

test: $(STAMP) interpreted ## lint, unit tests with coverage of policy and sandbox, then compiled every test that this machine can run
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target lint warm $(NATIVE).made
	$(BIN)/coverage erase
	$(PYTEST) -m 'not long' --cov --cov-report= $(INTERPRETED)
	$(BIN)/coverage report --skip-covered --fail-under=90
	@$(MAKE) --no-print-directory compiled
	$(PYTEST)

bench: $(COMPILED) ## the cache against nginx, Varnish and Traffic Server (if installed), and the sandbox's figures
	$(BIN)/python -m loadtests.bench --seconds 2 --json .run/bench-cache.json
	$(BIN)/python -m sandbox bench --quick

load: $(COMPILED) ## Locust against a running demo, for a bounded time
	@$(BIN)/python -m loadtests

soak: $(COMPILED) ## ten minutes of load with purges, origin faults and pushes: no wrong body, nothing leaked
	@$(BIN)/python -m loadtests.soak --json .run/soak.json

lock: ## write requirements.lock anew, from pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --all-extras --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --custom-compile-command 'make lock' --upgrade pyproject.toml -o requirements.lock

clean: ## remove what was made, the environment too
	rm -rf $(VENV) .run build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
