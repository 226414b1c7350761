# Each target creates .venv on first use.
PYTHON ?=
CONSTRAINTS ?= constraints.txt
OUT ?= demo-out
# Threads of each of the two test processes. Threads that wait for a busy core slow a test down many times.
THREADS ?= 1
BIN := .venv/bin

# A processor without AVX-512, as most laptops have: PyTorch, oneDNN and MKL then use AVX2 kernels, which round differently.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
NUMERICAL := tests/ops tests/layers tests/attention tests/insertion tests/inflation tests/models tests/test_functional.py
FLOOR_TORCH := 2.13.0
FLOOR_TESTS := tests/ops tests/layers tests/insertion tests/planning tests/attention tests/test_functional.py tests/test_import.py

.PHONY: help demo test test-all test-avx2 test-floor lint bench format clean
help:
	@echo "make demo        train with and without a block, visualize real video; results in $(OUT)/"
	@echo "make test        run the test suite"
	@echo "make test-all    also the numerical tests limited to AVX2 instructions"
	@echo "make test-floor  the core's tests with torch $(FLOOR_TORCH), the oldest supported version"
	@echo "make lint        formatting, types, import directions"
	@echo "make bench       time and memory of one block, compared with other implementations"

demo: .venv/.ready-demo
	@$(BIN)/nonlocal demo --out $(OUT)

test: .venv/.ready-dev
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

test-avx2: .venv/.ready-dev
	@$(AVX2) OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal $(NUMERICAL)

test-all: test test-avx2

test-floor: .venv-floor/.ready
	@OMP_NUM_THREADS=$(THREADS) .venv-floor/bin/python -m pytest -n 2 --dist worksteal $(FLOOR_TESTS)

lint: .venv/.ready-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/pyright

format: .venv/.ready-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: .venv/.ready-dev
	@$(BIN)/nonlocal bench

clean:
	rm -rf .venv .venv-floor demo-out bench-out

# The stamp file makes later calls start at once; it is renewed when the dependencies change.
.venv/.ready-%: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing torch-nonlocal[$*] into .venv (once; some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$*]'
	@touch $@

.venv/bin/python:
	@python="$(PYTHON)"; \
	for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	  [ -n "$$python" ] && break; \
	  $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$$candidate; \
	done; \
	[ -n "$$python" ] || { echo "Python 3.11 or newer not found; name one: make PYTHON=/path/to/python3.11"; exit 1; }; \
	echo "Creating .venv with $$($$python --version) ..."; \
	$$python -m venv .venv

# The core with the oldest supported torch; tests that need an optional package skip there.
.venv-floor/.ready: pyproject.toml
	@echo "Installing the core with torch $(FLOOR_TORCH) into .venv-floor ..."
	@$(or $(PYTHON),python3) -m venv .venv-floor
	@.venv-floor/bin/python -m pip install --quiet --disable-pip-version-check torch==$(FLOOR_TORCH) numpy hypothesis pytest pytest-xdist
	@.venv-floor/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
