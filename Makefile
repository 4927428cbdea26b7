# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11+ and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests start hundreds of processes, which should find komad's modules compiled, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test soak lint types contracts check bench bench-gpu wheel clean help

help:             ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("komad needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)    ## simulate a short session and run the real daemon on it
	$(BIN)/komad demo

test: $(STAMP)    ## run the tests (four at a time: many of them wait)
	$(BIN)/python -m pytest -n 4 --dist worksteal

soak: $(STAMP)    ## the long tests: many faults, many damaged files
	$(BIN)/python -m pytest -m soak

lint: $(STAMP)    ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)   ## mypy, strict
	$(BIN)/mypy

contracts: $(STAMP) ## import layers
	$(BIN)/lint-imports

check: lint types contracts test ## everything CI runs

bench: $(STAMP)   ## time and memory, side by side with RELION where it is installed
	$(BIN)/python -m tests.bench

bench-gpu: $(STAMP) ## the GPU: stages, memory, transfers, a session; fails where there is none
	$(BIN)/python -m tests.bench gpu

wheel: $(STAMP)   ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean:            ## remove the environment and what the tools left
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
