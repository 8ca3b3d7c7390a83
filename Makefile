# make setup  install the pinned environment in .venv
# make demo   install, run the workflow of config.yaml, print the results
# make test   install, run the quick tests    make lint   style, types, workflow
# make test-slow  the tests that `make test` leaves out    make test-all  all tests: whole workflows, faults, a SLURM cluster, PEFT's own suite
# make smoke  the smallest real run           make format fix style
# make example  fit a custom task (examples/opposites)
# make lock   renew the pinned versions       make docs   write the generated pages and schema
# make html   build the documentation as a site, in build/html
# make bench  measure speed and memory against naive baselines (half an hour)
# make gpu-check  prove a GPU machine: equality, failures, speed and memory as a table (docs/gpu.md)
# make clean  delete outputs and caches, after asking (YES=1: without)
#
# Variables: PYTHON (3.11 to 3.14), CORES, CONFIG, DATA_MIRROR (folder to take datasets from instead of the
# network), TORCH_INDEX (index with CPU builds of torch), SNAKEMAKE_ARGS, PYTEST_ARGS.

PYTHON ?= python3
VENV ?= .venv
CORES ?= 2
CONFIG ?= config.yaml
DATA_MIRROR ?= $(LOFIT_DATA_MIRROR)
TORCH_INDEX ?=
UPGRADE ?=
SNAKEMAKE_ARGS ?=
PYTEST_ARGS ?=

LOCK := requirements/cpu-linux.lock
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
MIRROR = $(abspath $(patsubst ~/%,$(HOME)/%,$(DATA_MIRROR)))
TORCH = "$$(grep -o '^torch==[^ ]*' $(LOCK))"
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Whether this Python can compile what has no wheel for it.
BUILDS = 'import os, shutil, sys; from sysconfig import get_config_var as var; \
	sys.exit(sys.version_info >= (3, 14) and not (shutil.which(var("CC").split()[0]) and os.path.exists(var("INCLUDEPY") + "/Python.h")))'
# A pin of the lock with its hashes.
PIN = sed -n '/^$(1)==/,/\# via/p' $(LOCK)
# $(call INSTALL,what,index): without an index, the one that pip is set up for.
INDEX = $$($(PIP) config list | sed -n "s/^[^=]*\.index-url='\(.*\)'$$/\1/p" | head -n 1)
INSTALL = UV_DEFAULT_INDEX="$(or $(2),$${UV_DEFAULT_INDEX:-$(INDEX)})" \
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(1) \
	|| { echo "uv cannot install this; pip tries, which takes longer" >&2; \
		$(PIP) install --quiet --no-compile $(if $(2),--index-url $(2)) $(1); }
# A CPU build of torch is not on the public index: taken if pip finds one that the lock knows.
CPU_TORCH = $(call PIN,torch) | sed 's/^torch==[^ ]*/&+cpu/' \
	| $(PIP) install --quiet --no-compile --no-deps --require-hashes --requirement /dev/stdin 2>/dev/null || true
# The rules call `python -m lofit`, so the environment comes first on PATH.
RUN := PATH="$(BIN):$$PATH"
# --configfile and --config take all names that follow: an option of one value stands between them and SNAKEMAKE_ARGS.
SNAKEMAKE = $(RUN) snakemake --logger lofit --configfile $(1) \
	$(if $(DATA_MIRROR),--config data_mirror="$(MIRROR)") --cores $(CORES) $(SNAKEMAKE_ARGS)

.PHONY: help setup demo smoke example bench gpu-check test test-slow test-all format lint docs html lock clean
# `make -j` changes nothing: two workflows in one folder would only wait for each other's lock.
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(STAMP)

# Every archive is compared with its hash in the lock. Two are not: torch from TORCH_INDEX, installed first, and the
# packages that a CUDA build of torch needs beside, which a lock for CPUs does not name, last.
# uv is several times as fast as pip. It knows none of pip's settings: it is told the index, and pip, which looks in all
# places that it is set up for, does what uv cannot.
# Python keeps the bytecode of what it imports. Where it is told not to, all is compiled here (the packages' own tests
# aside), once, and not by every process of a workflow: that takes longer than the rest of the installation.
# Stale only when the pins, the dependencies or the entry points change; the package itself is editable.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' \
		|| { echo "error: LoFiT Bench needs Python 3.11 to 3.14; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c $(BUILDS) || { echo "error: for Python 3.14, immutables (of Snakemake) has to be compiled: install a C compiler" \
		"and Python's headers (python3.14-dev), or take an older Python: make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }
	$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python scripts/whole.py
	@$(call PIN,uv) | $(PIP) install --quiet --only-binary uv --no-deps --require-hashes --requirement /dev/stdin || true
	@$(if $(TORCH_INDEX),$(call INSTALL,--no-deps $(TORCH),$(TORCH_INDEX)),$(call CPU_TORCH))
	@$(call INSTALL,--no-deps --require-hashes --requirement $(LOCK))
	@$(call INSTALL,$(TORCH))
	@$(call INSTALL,--no-deps --editable .)
	@test -z "$$PYTHONDONTWRITEBYTECODE" || $(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib/python*/site-packages || true
	@touch $@

demo: $(STAMP)
	$(call SNAKEMAKE,$(CONFIG))
	@$(BIN)/lofit summary --configfile $(CONFIG)

smoke: $(STAMP)
	$(call SNAKEMAKE,config/smoke.yaml)
	@$(BIN)/lofit summary --configfile config/smoke.yaml

example: $(STAMP)
	$(BIN)/lofit train --task-dir examples/opposites --method lofit --method lora --out results/example

bench: $(STAMP)
	$(RUN) $(if $(DATA_MIRROR),LOFIT_DATA_MIRROR="$(MIRROR)") python -m perf.run

# As many processes as cores, each with one thread; the tests of a file, which share what is costly, in one of them.
# Nodes may have two threads, which wait asleep: other tests need the cores.
PYTEST = $(RUN) $(if $(DATA_MIRROR),LOFIT_DATA_MIRROR="$(MIRROR)") OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	python -m pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

test-all: $(STAMP)
	$(PYTEST)

gpu-check: $(STAMP)
	$(RUN) python -m tests.gpu.check --device cuda --out perf/gpu.md

format: $(STAMP)
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy lofit
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/hadolint Dockerfile
	$(RUN) snakemake --lint --configfile $(CONFIG)

docs: $(STAMP)
	$(BIN)/python scripts/describe.py
	$(BIN)/python scripts/paper.py
	$(BIN)/lofit schema > $(VENV)/schema.yaml && mv $(VENV)/schema.yaml workflow/schemas/config.schema.yaml

# All is read again: Sphinx tells the warnings of a page only when it reads it.
html: $(STAMP)
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going --nitpicky --jobs auto \
		--conf-dir docs --doctree-dir build/doctrees . build/html
	@echo '<meta http-equiv="refresh" content="0; url=docs/index.html">' > build/html/index.html
	@echo "build/html/index.html"

lock:
	$(PYTHON) scripts/lock.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(if $(UPGRADE),--upgrade)

CACHES := .import_linter_cache .snakemake .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

clean:
	@echo "To be deleted, with all that is in it:"
	@find results -mindepth 1 -maxdepth 1 ! -name README.md
	@ls -d $(CACHES) 2>/dev/null || true
	@test "$(YES)" = 1 || test -t 0 || { echo "error: nobody to ask; say YES=1 to delete all this" >&2; exit 1; }
	@test "$(YES)" = 1 || { printf "Delete it? [y/N] "; read -r answer; test "$$answer" = y; } \
		|| { echo "nothing was deleted" >&2; exit 1; }
	find results -mindepth 1 ! -path results/README.md -delete
	rm -rf $(CACHES)
