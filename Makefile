# `make demo` and `make test` need only Python >= 3.10, make and pip: the first call prepares .venv.
# Another interpreter: `make test PYTHON=python3.12`. One test: `make test ARGS="tests/test_docs.py -x"`,
# with a debugger: `make test ARGS="-n 0 --pdb tests/test_docs.py"`.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= amg,cluster,flows,opt,rl,taichi,test,viz
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TYPED := $(VENV)/typed
CODE := $(wildcard *.py) assets sim operators viz tasks tests benchmarks

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint typecheck bench wheel clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo       run the demonstration            (`rheograd demo $$ARGS`)'
	@echo 'make test       lint, type check, default tests  (`pytest $$ARGS`)'
	@echo 'make lint       ruff'
	@echo 'make typecheck  mypy'
	@echo 'make bench      every benchmark, quick'
	@echo 'make wheel      build the wheel into dist/'
	@echo 'make setup      prepare $(VENV) only;  make clean removes what was built, not $(VENV)'

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = v >= (3, 10); \
	ok or print("Makefile: expected Python >= 3.10; got %d.%d from `$(PYTHON)`. " % v[:2] \
	+ "Name another one: make PYTHON=/path/to/python3.12."); sys.exit(not ok)'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Preparing $(VENV), once; some minutes."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@mkdir -p $(TYPED) && ln -sfn "$(CURDIR)" $(TYPED)/rheograd
	@touch $@

demo: $(STAMP)
	$(BIN)/rheograd demo $(ARGS)

test: lint typecheck
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check $(wildcard $(CODE))

# mypy does not see editable installs: a link named like the package gives it the real module names.
typecheck: $(STAMP)
	MYPYPATH=$(TYPED) $(BIN)/mypy -p rheograd

bench: $(STAMP)
	@set -e; for file in $(wildcard benchmarks/bench_*.py); do \
		echo "== $$file"; $(BIN)/python $$file --quick; done

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist rheograd.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
