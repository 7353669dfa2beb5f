# Two commands for a newcomer: make quickstart, make test. Both set themselves up in .venv.
PYTHON ?= python3
BIN := .venv/bin
WITHIN_ONE_PROCESS := tests/benchmarks tests/data tests/launcher tests/odeformer

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

# What starts clusters of its own runs alone, and after the rest: it would starve it, and be starved.
test: lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations=5 $(WITHIN_ONE_PROCESS)
	$(BIN)/python -m pytest -m "not slow" --durations=10 $(addprefix --ignore=,$(WITHIN_ONE_PROCESS))

test-slow: install
	$(BIN)/python -m pytest -m slow --durations=10
