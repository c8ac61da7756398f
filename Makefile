# `make` lists the targets. The environment is made by requirements/install.py on first use.
PYTHON ?= python3
VENV ?= .venv
# Another package index for PyTorch alone, for example one with builds for CPUs.
TORCH_INDEX ?=
# For `make test-matrix`: folders to look for python3.10 and others in before PATH, with ":" between; one row; some tests.
PYTHONS ?=
ONLY ?=
TESTS ?=
# The demo and the tests run on the CPU; set it to let the tests see a GPU.
CUDA_VISIBLE_DEVICES ?=
export CUDA_VISIBLE_DEVICES

RUN := "$(VENV)/bin/python"
# The same, with the GPUs that CUDA_VISIBLE_DEVICES names, all if it names none.
RUN_ON_GPU := $(if $(CUDA_VISIBLE_DEVICES),,env -u CUDA_VISIBLE_DEVICES )$(RUN)
NVCC ?= $(if $(CUDA_HOME),$(CUDA_HOME)/bin/)nvcc
# As many processes as cores, each with up to a gigabyte of PyTorch in memory, so there is a limit. Worksteal gives each
# of them whole rows of files, so that what the tests of a file share is rarely made twice.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
DEMO := $(RUN) projects/MTACLIP/tools/run_demo.py

.DEFAULT_GOAL := help
.PHONY: help env demo demo-baseline test test-oracles test-all test-inputs test-faults test-matrix test-leaks
.PHONY: test-determinism audit gpu-check lint format clean

help: ## list the targets
	@echo "Targets of MTA-CLIP (variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH_INDEX=$(TORCH_INDEX)):"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1 | \2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-18s%s\n", $$1, $$2}'

env: ## create or update the virtual environment; does nothing when it is up to date
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "make env: '$(PYTHON)' is not Python 3.10 or newer: name one that is, make env PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) requirements/install.py --venv "$(VENV)" --torch-index "$(TORCH_INDEX)"

demo: env ## draw a miniature data set, train MTA-CLIP on it, evaluate and show pictures
	$(DEMO) --config-file configs/miniature/mtaclip_tiny.yaml

demo-baseline: env ## the same with the Mask2Former baseline
	$(DEMO) --config-file configs/miniature/mask2former_tiny.yaml

test: lint ## lint, and the tests that take seconds each
	$(RUN) -m pytest -q -m "not slow" $(PARALLEL)

test-oracles: env ## compare with the stored results of independent implementations
	$(RUN) -m pytest -q tests/oracles

test-all: lint ## lint and all tests, with many more random inputs, and the audit if the internet is there
	MTACLIP_EXAMPLES=1000 $(RUN) -m pytest -q -m "not slow" $(PARALLEL)
	$(RUN) -m pytest -q -m slow
	@$(RUN) requirements/audit.py --allow-offline

test-inputs: env ## many bad inputs, at random and by fuzzing; writes their table into docs/reliability.md
	-$(RUN) -m pip install -q -r requirements/fuzz.txt
	MTACLIP_EXAMPLES=2000 MTACLIP_FUZZ_SECONDS=20 $(RUN) -m pytest -q tests/inputs --write-tables

audit: env ## look the installed packages up in a database of known vulnerabilities, in the internet
	@$(RUN) requirements/audit.py

test-leaks: env ## look for growing memory, threads, files and processes; writes a table of docs/reliability.md
	$(RUN) -m pytest -q tests/engine/test_leaks.py --write-tables

test-determinism: env ## run programs twice and compare bits; writes a table of docs/reliability.md
	$(RUN) -m pytest -q tests/engine/test_determinism.py --write-tables

test-faults: env ## kill runs, fill disks, take folders away, and write the table of docs/reliability.md
	$(RUN) -m pytest -q -n 0 tests/faults --write-tables

test-matrix: env ## run the fast tests with other versions of Python and the libraries; ONLY=name takes one row
	$(RUN) -m requirements.matrix --pythons "$(PYTHONS)" $(if $(ONLY),--only "$(ONLY)") $(if $(TESTS),--tests $(TESTS))

gpu-check: env ## check, test and time the compiled operator on a GPU
	$(RUN_ON_GPU) -m mtaclip.ops.check --device cuda
	$(RUN_ON_GPU) -m pytest -q $(PARALLEL) tests/ops
	$(RUN_ON_GPU) benchmarks/ops.py --device cuda --output benchmarks/results/ops_cuda.json
	@if command -v "$(NVCC)" >/dev/null; then set -ex; mkdir -p build; \
	    "$(NVCC)" -O3 -std=c++17 -arch=native -o build/gpu_rates benchmarks/gpu_rates.cu; \
	    $(if $(CUDA_VISIBLE_DEVICES),,env -u CUDA_VISIBLE_DEVICES )build/gpu_rates > benchmarks/results/gpu_rates.json; \
	else echo "make gpu-check: no $(NVCC), so benchmarks/gpu_rates.cu is left out"; fi

lint: env ## check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: env ## repair style and formatting
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## remove caches and build products; the environment, data and results stay
	rm -rf build dist .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
