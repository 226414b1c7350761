# Each target creates .venv on first use.
PYTHON ?=
CONSTRAINTS ?= constraints.txt
# A list of exact versions with hashes, to install nothing else: CI sets LOCK=requirements/ci.txt.
LOCK ?=
OUT ?= demo-out
# Threads of each of the two test processes. Threads that wait for a busy core slow a test down many times.
THREADS ?= 1
# The tests start many processes. Without bytecode each of them compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin

# A processor without AVX-512, as most laptops have: PyTorch, oneDNN and MKL then use AVX2 kernels, which round differently.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
NUMERICAL := tests/ops tests/layers tests/attention tests/insertion tests/inflation tests/models tests/test_functional.py
FLOOR_TORCH := 2.13.0
FLOOR_TESTS := tests/ops tests/layers tests/insertion tests/planning tests/attention tests/test_functional.py tests/test_import.py

FUZZ_CASES ?= 2000
FUZZ_SEED ?= 0

.PHONY: help demo test test-all test-extended test-video test-ecosystem test-avx2 test-floor fuzz lint audit lock bench format clean
help:
	@echo "make demo        train with and without a block, visualize real video; results in $(OUT)/"
	@echo "make test        run the test suite"
	@echo "make test-all    also test-video, the tests that take a minute each, and the numerical tests with AVX2 instructions only"
	@echo "make test-ecosystem  blocks in the hands of other tools: peft, torchao, Opacus, Lightning, ... (installs them)"
	@echo "make test-video  frames of about 250 generated video files against FFmpeg's command line"
	@echo "make test-floor  the core's tests with torch $(FLOOR_TORCH), the oldest supported version"
	@echo "make fuzz        open $(FUZZ_CASES) damaged and hostile files by every function that reads files"
	@echo "make lint        formatting, types, import directions"
	@echo "make audit       known vulnerabilities in the versions that CI installs"
	@echo "make lock        renew requirements/*.txt: exact versions and hashes of all that CI installs"
	@echo "make bench       time and memory of one block, compared with other implementations"

demo: .venv/.ready-demo
	@$(BIN)/nonlocal demo --out $(OUT)

test: .venv/.ready-dev
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not extended and not video" $(TESTS)

test-extended: .venv/.ready-dev
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m extended

test-video: .venv/.ready-dev
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m video tests/video

test-avx2: .venv/.ready-dev
	@$(AVX2) OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not extended" -k "not two_processes" $(NUMERICAL)

test-ecosystem: .venv/.ready-ecosystem
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal tests/ecosystem

test-all: test test-extended test-video test-avx2

test-floor: .venv-floor/.ready
	@OMP_NUM_THREADS=$(THREADS) .venv-floor/bin/python -m pytest -n 2 --dist worksteal -m "not extended" $(FLOOR_TESTS)

# A file that breaks a rule is kept in fuzz-failures/; the last line of the output opens it again.
fuzz: .venv/.ready-dev
	@$(BIN)/python tests/fuzz/run_fuzz.py --cases $(FUZZ_CASES) --seed $(FUZZ_SEED)

lint: .venv/.ready-dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/pyright

format: .venv/.ready-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

audit: .venv-tools/.ready
	@.ci/audit .venv-tools/bin/pip-audit requirements/ci.txt

# torch-nonlocal requires extras of itself; --unsafe-package leaves it out of the lists.
LOCK_OPTIONS := --quiet --generate-hashes --strip-extras --no-annotate --no-emit-index-url --no-emit-find-links \
	--unsafe-package torch-nonlocal
lock: .venv-tools/.ready
	@CUSTOM_COMPILE_COMMAND="make lock" .venv-tools/bin/pip-compile $(LOCK_OPTIONS) \
	  --output-file requirements/tools.txt requirements/tools.in
	@CUSTOM_COMPILE_COMMAND="make lock" .venv-tools/bin/pip-compile $(LOCK_OPTIONS) --extra ecosystem --build-deps-for editable \
	  --constraint constraints.txt --output-file requirements/ci.txt pyproject.toml

bench: .venv/.ready-dev
	@$(BIN)/nonlocal bench

clean:
	rm -rf .venv .venv-floor .venv-tools demo-out bench-out fuzz-failures

# The stamp file makes later calls start at once; it is renewed when the dependencies change.
.venv/.ready-%: pyproject.toml constraints.txt $(LOCK) | .venv/bin/python
ifeq ($(LOCK),)
	@echo "Installing torch-nonlocal[$*] into .venv (once; some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$*]'
else
	@echo "Installing $(LOCK) and torch-nonlocal into .venv (once; some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check
endif
	@touch $@

.venv-tools/.ready: requirements/tools.txt
	@$(or $(PYTHON),python3) -m venv .venv-tools
	@.venv-tools/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $<
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
