# One command each. `make demo` and `make test` work from a fresh clone with nothing but Python 3.10 or newer and pip.
PYTHON ?= python3
JOBS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
# Two test processes of one thread each; a file's tests stay together, as they share what is dear to make.
PYTEST := $(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test test-compiled test-all check format results bench clean

demo: $(VENV)/.demo
	@$(BIN)/dashpot demo

test: $(VENV)/.test
	$(PYTEST) -m "not slow"

# The contracts once more, on compiled kernels instead of the eager engine.
test-compiled: $(VENV)/.test
	DASHPOT_ENGINE=compiled $(PYTEST) -m "not slow" tests/contracts tests/methods

test-all: $(VENV)/.test
	$(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python tools/prose_lint.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The table of docs/results.md on the real Fashion-MNIST.
results: $(VENV)/.demo
	$(BIN)/dashpot reproduce fashion-mnist --seeds 3

# Ratios to torch in one process; docs/performance.md records them. Leave the machine alone meanwhile.
bench: $(VENV)/.demo
	$(BIN)/python benchmarks/step.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis

# Each stamp adds to the one before: what runs, what tests, what checks.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "dashpot needs Python 3.10 or newer; say which with make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "Making a virtual environment in $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch, the one large download ..."
	@$(INSTALL) torch numpy
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@echo "Installing dashpot with its command line ..."
	@$(INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "Installing the test tools ..."
	@$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@echo "Installing the linter and the type checker ..."
	@$(INSTALL) --editable '.[dev]'
	@touch $@
