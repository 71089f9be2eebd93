# Each target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11, 3.12 or 3.13.
# `make demo PYTHON=/path/to/python3.12` names the interpreter.

SHELL := bash
.NOTPARALLEL:
.PHONY: help demo mini test test-slow lint bench clean FORCE

BIN := .venv/bin
DEV := .venv/.ready-dev
# [dev] holds [demo], so a development environment runs the demo too.
DEMO := $(if $(wildcard $(DEV)),$(DEV),.venv/.ready-demo)

help:
	@echo "make demo   segment a real chest CT and look at demo/overview.png"
	@echo "make mini   train both stages on synthetic bodies, then look for tumors: about an hour"
	@echo "make test   lint, then the tests; make test-slow also those that take minutes each"
	@echo "make lint   ruff, mypy, import-linter"
	@echo "make bench  measure against peers"
	@echo "make clean  remove .venv, caches and the demo's output"

demo: $(DEMO)
	@$(BIN)/dsmseg demo -o demo

# Goes on where it was stopped.
mini: $(DEV)
	@$(BIN)/dsmseg synth benchmark -o mini/benchmark --scale mini
	@$(BIN)/dsmseg datasets prepare mini/benchmark -o mini/store --spacing 3 --hu-window=-1000,1000
	@$(BIN)/dsmseg train recipes/mini.yaml --set data=mini -o mini/run --resume
	@$(BIN)/python benchmarks/mini.py

# Two processes of one thread are faster than one of two. A file's tests stay together: they share what is slow to make.
test: lint
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: lint
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 2 --dist loadfile --slow

lint: $(DEV)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "Not formatted: run $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@out=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$out" >&2; exit 1; }

bench: $(DEV)
	@set -e; for script in $(filter-out benchmarks/measuring.py benchmarks/bodies.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script"; done

clean:
	@rm -rf .venv build dist demo mini .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

# PYTHON= with another version than .venv has: .venv is made anew.
ifdef PYTHON
ifneq ($(shell ($(PYTHON) --version) 2>/dev/null),$(shell ($(BIN)/python --version) 2>/dev/null))
.venv/.ready-dev .venv/.ready-demo: FORCE
endif
endif
FORCE:

# Prints a suitable Python, or says in one line what is missing.
define find_python
	fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; \
	python=; \
	for candidate in $(or $(PYTHON),python3 python3.12 python3.11 python3.13 python); do \
	  if "$$candidate" -c "$$fits" 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  found=$$( ($(or $(PYTHON),python3) --version) 2>/dev/null || true); \
	  echo "dsmseg needs Python 3.11, 3.12 or 3.13 with venv; $(or $(PYTHON),python3) is $${found:-not there}." \
	    "Install one (Debian, Ubuntu: python3.11 and python3.11-venv), or name it: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi
endef

# The stamp is written last, so an interrupted installation is done again.
.venv/.ready-%: pyproject.toml constraints.txt
	@set -euo pipefail; rm -f .venv/.ready-*; \
	$(find_python); \
	version=$$("$$python" --version 2>&1); \
	if [ "$$($(BIN)/python --version 2>&1)" != "$$version" ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "Making .venv with $$version"; "$$python" -m venv --clear .venv; \
	fi; \
	echo "Installing dsmseg[$*] and what it needs into .venv; the first time this takes some minutes"; \
	export PIP_DISABLE_PIP_VERSION_CHECK=1; \
	if ! $(BIN)/python -m pip install --no-input --no-compile -c constraints.txt -e ".[$*]" 2>&1 | tee .venv/install.log \
	  | awk '/(Downloading|Using cached) .*[0-9] [MG]B/ \
	      { split($$2, wheel, "-"); print "  " $$1, wheel[1], wheel[2], $$3, $$4; fflush() } \
	    /^Installing collected/ { print "  Unpacking"; fflush() }'; then \
	  tail -n 20 .venv/install.log >&2; echo "The installation failed; all of its output: .venv/install.log" >&2; exit 1; \
	fi; \
	touch $@
