# Two commands for a newcomer: make quickstart, make test. Both set themselves up in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow lint install
.DELETE_ON_ERROR:

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e ".[dev]"
	touch $@

quickstart: install
	$(BIN)/odeformer quickstart

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file's tests stay together, on one of two workers; tests/conftest.py puts the longest files first. A worker
# that dies ends the run and is named: a new one in its place would wait for ever (pytest-xdist issue 1378).
TWO_AT_A_TIME := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations=20

test: lint
	$(BIN)/python -m pytest -m "not slow" $(TWO_AT_A_TIME)

# A quick start fills the machine: nothing else beside it. Most of the others wait for something to be noticed:
# two of them fit into one machine.
test-slow: install
	$(BIN)/python -m pytest -m slow tests/test_quickstart.py
	$(BIN)/python -m pytest -m slow --ignore tests/test_quickstart.py $(TWO_AT_A_TIME)
