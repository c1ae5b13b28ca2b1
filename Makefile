# One command each. `make demo` and `make test` work from a fresh clone with nothing but Python 3.10+ and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo test test-all check format results bench docs clean

# The optimizers need torch and numpy; the demo adds the command line; the tests add their tools.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing torch (the largest download; once) ..."
	@$(INSTALL) torch
	@echo "Installing dashpot and its command line ..."
	@$(INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing the test tools ..."
	@$(INSTALL) -e '.[dev]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/dashpot demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -q

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(VENV)/.dev
	$(BIN)/python -m dashpot.results

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
