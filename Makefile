# Every target but `clean` sets its environment up first; see README.md for the same commands without make.
PYTHON ?= python3
UV_VERSION := 0.13.9
export UV_PYTHON_DOWNLOADS := never
# uv trusts what the system trusts, for machines behind a proxy with a certificate of its own.
export UV_SYSTEM_CERTS := 1
# Bytecode is kept, wherever a shell or an image says otherwise: a run and the tests start many processes.
export PYTHONDONTWRITEBYTECODE :=

# An active conda environment made from environment.yml is used as it is; anything else gets .venv.
ifeq ($(CONDA_DEFAULT_ENV),tapecheck)
PY := $(CONDA_PREFIX)/bin/python
STAMP := .conda-stamp
else
PY := .venv/bin/python
STAMP := .venv/.stamp
endif

.PHONY: help setup run compare rto test check lab bench docs lock clean
help:
	@echo "make run    measure load, backfill and recovery on the sandbox, print the verdicts, write outputs/index.html (2 to 3 min)"
	@echo "make compare  prove that fixes work: variants of the sandbox measured in interleaved rounds"
	@echo "make rto    define the recovery objectives as a document and lint them, without a drill and in seconds"
	@echo "make lab    open JupyterLab with the sandbox running"
	@echo "make test   run the whole test suite, golden notebooks included"
	@echo "make check  lint, type-check and validate every YAML"
	@echo "make bench  measure the load engine beside wrk, hey, k6 and locust, and the backfill beside a raw COPY"
	@echo "make docs   draw docs/images/rooms.png, the picture of the architecture, from the imports as they are"
	@echo "make setup  create .venv from requirements.lock (done by the others when needed)"
	@echo "make lock   resolve requirements.lock anew from pyproject.toml"
	@echo "make clean  stop the sandbox, remove .venv and caches; outputs/ stays"

setup: $(STAMP)

.venv/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "tapecheck needs Python 3.11 to 3.13; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make setup PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip' || { echo "$(PYTHON) has no ensurepip; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@.venv/bin/python -m pip --version >/dev/null 2>&1 && [ "$$(.venv/bin/python -V)" = "$$($(PYTHON) -V)" ] || $(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	.venv/bin/python -m uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
	.venv/bin/python -m uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

.conda-stamp: requirements.lock pyproject.toml
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: setup
	@$(PY) -m tapecheck run all

compare: setup
	@$(PY) -m tapecheck run compare

rto: setup
	@$(PY) -m tapecheck run rto_rpo -p drills none

test: setup
	$(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(PY) -m codespell_lib
	$(PY) -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	$(PY) -m tapecheck check

lab: setup
	@$(PY) -m tapecheck lab

bench: setup
	@$(PY) -m tests.benchmarks $(BENCH)

docs: setup
	$(PY) docs/draw_rooms.py

lock:
	$(PY) -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --group dev pyproject.toml --output-file requirements.lock

clean:
	-@if [ -x "$(PY)" ]; then "$(PY)" -m tapecheck sandbox down --force; fi
	rm -rf .venv .conda-stamp .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
