# `make demo` and `make test` need only Python 3.10 or newer and pip in a fresh clone.
PYTHON ?= python3
JOBS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
# JOBS single-threaded test processes. The tests of a file share a process and its expensive fixtures. They cache
# bytecode, also if the environment disables it: every process would compile several hundred modules again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
# Required share of covered lines in src, in percent.
LINE_COVERAGE := 95

.PHONY: demo test test-compiled test-all coverage check format results bench clean

# Compare nine methods on Fashion-MNIST, or on the bundled digits without network access.
demo: $(VENV)/.demo
	@$(BIN)/dashpot demo

# The fast tests, as in CI.
test: $(VENV)/.test
	$(PYTEST) -m "not slow"

# The contracts of every method on compiled kernels instead of the eager engine.
test-compiled: $(VENV)/.test
	DASHPOT_ENGINE=compiled $(PYTEST) -m "not slow" tests/contracts tests/methods

# All tests, slow ones included.
test-all: $(VENV)/.test
	$(PYTEST)

# All tests with line and branch coverage; fails if line coverage is below LINE_COVERAGE.
coverage: $(VENV)/.test
	$(BIN)/coverage erase
	$(PYTEST) --cov --cov-report=term
	@$(BIN)/coverage json -q -o - | $(BIN)/python -c 'import json, sys; \
	lines = json.load(sys.stdin)["totals"]["percent_statements_covered"]; print(f"Line coverage: {lines:.1f} %"); \
	sys.exit(lines < $(LINE_COVERAGE) and "Line coverage must be at least $(LINE_COVERAGE) %.")'

# Linter, formatter, type checker and prose lint; changes no file.
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python tools/prose_lint.py --strict

# Fix lint errors if possible, and format.
format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The table in docs/results.md, on the full Fashion-MNIST.
results: $(VENV)/.demo
	$(BIN)/dashpot reproduce fashion-mnist --seeds 3

# Step times compared with torch, as in docs/performance.md; needs an otherwise idle machine.
bench: $(VENV)/.demo
	$(BIN)/python benchmarks/step.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*

# Each stamp file extends the previous environment: torch, dashpot, test tools, development tools.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "dashpot requires Python 3.10 or newer. Select one with: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating a virtual environment in $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch, the only large download ..."
	@$(INSTALL) torch numpy
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@echo "Installing dashpot and its command line ..."
	@$(INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "Installing the test tools ..."
	@$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@echo "Installing the development tools ..."
	@$(INSTALL) --editable '.[dev]'
	@touch $@
