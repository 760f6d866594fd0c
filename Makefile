# make demo    a virtual environment, the package, and a first contest of objectives on real data
# make test    lint, import contract, types, tests (what CI runs)
# make bench   the benchmarks, as ratios beside the peers
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint types unit bench slow clean

# torch goes first and alone: an unpinned resolve would pick a build with gigabytes of CUDA packages.
$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[cli]"
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(PIP) -e ".[test]"
	touch $@

demo: $(VENV)/.base
	$(BIN)/equipoise fit page-blocks0 --metric opauc --max-fpr 0.05 --folds 5 --output equipoise-demo --overwrite

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.test
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -q -m "not slow"

slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow

test: lint types unit

bench: $(VENV)/.test
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) equipoise-demo
