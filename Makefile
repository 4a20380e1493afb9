# The commands of a newcomer and of a contributor. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
OUT ?= runs
SYSTEM ?= cycle_contrast

.PHONY: help setup demo test test-all test-extras check format evidence bench gpu gpu-evidence pictures docs lock clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## install everything into .venv from the hash-locked requirements

# Nothing but Python with venv is needed: uv comes from its own lock, and builds nothing in isolation.
$(STAMP): requirements.lock requirements-bootstrap.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "needs Python 3.11: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (about 5.5 GB, a few minutes)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-bootstrap.lock
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## world, training, evaluation, search and report in below 5 minutes
	@rm -rf $(OUT)/demo
	@$(BIN)/rhyme demo --out $(OUT)/demo

test: setup  ## all tests but the slow ones
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: setup  ## every test
	@$(BIN)/python -m pytest -n 2 --dist loadfile

# Timm and transformers are extras: installed on demand and in CI, beside what the main lock brings.
$(VENV)/.extras: $(STAMP) requirements-extras.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements-extras.lock
	@touch $@

test-extras: $(VENV)/.extras  ## encoders of timm and Hugging Face, which are installed for it
	@RHYME_REQUIRE_EXTRAS=1 $(BIN)/python -m pytest tests/encoders/test_shelf.py tests/api/test_shelf.py -k "installed"

check: setup  ## ruff, pyright, import-linter
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/basedpyright

format: setup  ## rewrite the code in the house style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

WORKERS ?= 2
MINUTES ?= 112
RESULTS ?= results
RUNS ?= runs/evidence
evidence: setup  ## the tables of a system, two hours at most: make evidence SYSTEM=cycle_contrast (resumable)
	@$(BIN)/python -m benchmarks.evidence --system $(SYSTEM) --workers $(WORKERS) --seconds $$(($(MINUTES) * 60)) --results $(RESULTS) --runs $(RUNS)

# Other libraries that are measured beside ours; nothing else needs them.
$(VENV)/.bench: $(STAMP) requirements-bench.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements-bench.lock
	@touch $@

bench: $(VENV)/.bench  ## ratios against peers, a command each
	@$(BIN)/python -m benchmarks

# Wherever a GPU and a python with torch, triton, numpy and pytest are at hand: nothing is installed.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
GPU_CASES ?=
gpu:  ## tests and benchmarks that need a GPU; GPU_PYTHON=python3 takes another environment
	@PYTHONPATH=src:. $(GPU_PYTHON) -m pytest -vv -p no:benchmark -n 8 tests/kernels/test_triton_*.py tests/kernels/test_attention_numerics.py tests/training/test_gpu.py tests/core/test_transfer.py
	@PYTHONPATH=src:. $(GPU_PYTHON) -m benchmarks.gpu $(GPU_CASES)

GPU_WORKERS ?= 4
gpu-evidence:  ## trainings that want a GPU, with RHYME_DATA where there are real pictures and clips (resumable)
	@for system in simclr moco cycle_contrast; do PYTHONPATH=src:. $(GPU_PYTHON) -m benchmarks.evidence --system $$system --only gpu --workers $(GPU_WORKERS) || exit 1; done

RUN ?= $(OUT)/demo
pictures: setup  ## the docs' pictures of the report, from the run that `make demo` leaves, or RUN=runs/mine
	@$(BIN)/python -m benchmarks.pictures_docs $(RUN)

docs: setup  ## the site, docs/_build/html
	@$(BIN)/sphinx-build -q -W -b html docs docs/_build/html
	@echo docs/_build/html/index.html

lock: setup  ## resolve the requirements anew
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock
	@echo "decord2 faiss-cpu lightly numkong opencv-python-headless usearch" | tr ' ' '\n' | $(BIN)/uv pip compile - --no-deps --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --output-file requirements-bench.lock
	@echo "annotated-doc regex shellingham timm tokenizers transformers typer" | tr ' ' '\n' | $(BIN)/uv pip compile - --no-deps --universal --python-version 3.11 --constraint requirements.lock --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --output-file requirements-extras.lock
	@echo uv | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --output-file requirements-bootstrap.lock

clean:  ## remove what was built
	@rm -rf build dist docs/_build .pytest_cache .ruff_cache
