# Everything runs from .venv, which `setup` makes; nothing is written outside this folder and the temporary one.
# Paths are relative, so that a space in the checkout's own path does no harm.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SOURCES := localstore sync tests $(wildcard benchmarks examples)

# PIP_USER and PYTHONPATH of the caller's would put packages elsewhere or take them from there.
unexport PIP_USER PYTHONPATH PYTHONHOME

.PHONY: setup demo test test-s3 check format bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed, and '$(PYTHON)' is none: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "'$(PYTHON) -m venv' failed: install your system's venv package, or name another Python" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/python -m localstore demo

# Two workers, each with a PostgreSQL of its own.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup $(TESTS)

# Any object store that speaks S3: LOCALSTORE_TEST_S3_ENDPOINT_URL, _ACCESS_KEY and _SECRET_KEY name it; else moto's.
test-s3: setup
	$(BIN)/python -m pytest -k s3 tests/contract/test_blobs.py tests/contract/test_blobs_attacked.py tests/contract/test_blobs_damaged.py tests/contract/test_blobs_s3.py
	$(BIN)/python -m pytest tests/contract/test_blobs_places.py tests/integration/test_blob_sync.py tests/integration/test_blob_healing.py tests/faults/test_upload_killed.py

check: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy localstore sync tests $(wildcard benchmarks)
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
