# Two commands a newcomer types: `make demo` and `make test`. Each sets up .venv by itself, once.
PYTHON ?=
CONSTRAINTS ?= constraints.txt
OUT ?= demo-out
# Of each of the two test processes: threads that wait for a busy core take many times as long.
THREADS ?= 1
BIN := .venv/bin

.PHONY: help demo test lint bench format clean
help:
	@echo "make demo   train with and without a block, look at real video: pictures and figures in $(OUT)/"
	@echo "make test   the whole test suite"
	@echo "make lint   formatting, types, import directions"
	@echo "make bench  time and memory of one block, side by side"

demo: .venv/.ready-demo
	@$(BIN)/nonlocal demo --out $(OUT)

test: .venv/.ready-dev
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

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
	rm -rf .venv demo-out bench-out

# The stamp makes a second call start at once; it is renewed when what is to be installed changes.
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
