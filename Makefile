# All that a person, a hook and CI type.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's settings; a machine with wheels on disk names them for both.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help install format check test test-fast chaos coverage docs demo up down lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## virtual environment with the locked dependencies

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

format: docs  ## rewrite the code in the project's style, and the reference
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: install  ## style, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

test: install  ## every test, against real servers on loopback
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report= $(PYTEST_ARGS)

test-fast: install  ## every test that needs no server
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not e2e and not chaos' $(PYTEST_ARGS)

# It resolves to other versions of what it shares with the project, so it lives apart.
$(VENV)-mitmproxy/bin/mitmdump:
	$(PYTHON) -m venv $(VENV)-mitmproxy
	$(VENV)-mitmproxy/bin/python -m pip install --quiet --disable-pip-version-check 'mitmproxy>=11,<13'

chaos: install $(VENV)-mitmproxy/bin/mitmdump  ## kills, faults, races and load, for hours; writes the table of docs/reliability.md
	CHAOS=write $(BIN)/python -m pytest tests/chaos -n 2 --dist worksteal --timeout 14400 $(PYTEST_ARGS)

coverage: install  ## how much of flows, tasks and gate the last `make test` ran through
	$(BIN)/coverage report

docs: install  ## write docs/reference.md from the code
	$(BIN)/python docs/reference.py

demo: install  ## the queue at work on real models and data
	$(BIN)/supermerge demo

up: install  ## start the embedded stack
	$(BIN)/supermerge up

down: install  ## stop the embedded stack
	$(BIN)/supermerge down

lock: install  ## resolve the newest versions that fit pyproject.toml
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --no-annotate --no-header --upgrade -o requirements.lock
	sed -i -E 's/^(torch==[0-9.]+)\+cpu/\1/' requirements.lock

clean: down  ## stop the stack and delete its state
	rm -rf .supermerge
