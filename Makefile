# Two commands for a newcomer: make quickstart, make test. Both set themselves up in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-busy test-slow bench-quick lint install
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
	$(BIN)/python -m benchmarks.docs --check
	$(BIN)/python tests/plain_english.py

test: install
	$(BIN)/python tests/suite.py normal

# The same tests beside four loops that keep the cores busy, three times: no test may mind.
test-busy: install
	$(BIN)/python tests/suite.py busy

# All slow tests, or with THIRD=1, 2 or 3 the quick start and a third of the others.
test-slow: install
	$(BIN)/python tests/suite.py slow $(if $(THIRD),--third $(THIRD))

# The quick form of every benchmark, within an hour on two cores; ends with the results it does not confirm.
bench-quick: install
	$(BIN)/python -m benchmarks.quick
