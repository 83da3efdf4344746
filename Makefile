# The two commands of a newcomer: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
comma := ,

.PHONY: help demo test test-paper gpu-check bench bench-report bench-baseline lint types imports unit format setup setup-dev clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 22

demo: setup ## set up, then analyse a film of 12 s on an embedded Triton
	@mkdir -p build
	@$(BIN)/fv2es analyze tests/media/astronaut.mp4 --transcript tests/media/astronaut.srt --output build/demo.json

test: setup-dev lint types imports unit ## set up, then all checks and tests

lint:
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types:
	@$(BIN)/mypy

imports:
	@$(BIN)/lint-imports

unit:
	@$(BIN)/pytest -n 2 --dist loadgroup -m "not paper and not server"
	@$(BIN)/pytest -m server

test-paper: setup-dev ## plans of the paper's size (a minute, 4 GB); no GPU needed
	@$(BIN)/pytest -m paper tests/builders

gpu-check: setup-dev ## on a machine with an NVIDIA GPU: build, compare and measure all engines there
	@$(BIN)/python -m fv2es_builders.gpu_check --output build/gpu-check.json

bench: setup-dev ## measure speed, memory, others and load on this machine (10 minutes), then report: build/bench/report/report.md
	@$(BIN)/python -m benchmarks.long_video --heights 360,1080,2160 --minutes 1 --also 1080:h264:5 --also 1080:hevc:1
	@film=$$($(BIN)/python -m benchmarks.material --heights 1080 --minutes 0.4 | cut -d' ' -f1); \
	$(BIN)/python -m benchmarks.peers "$$film" --repeat 1 --output build/bench/peers.json || [ $$? = 3 ]
	@$(BIN)/python -m benchmarks.load --clients 1,2,4 --step-seconds 30 --height 360 --length 24 --output build/bench/load
	@$(BIN)/python -m benchmarks.report

bench-report: setup-dev ## tables, pictures and the README's table from the committed records, benchmarks/results/*.json
	@$(BIN)/python -m benchmarks.report benchmarks/results --output benchmarks/results --readme README.md

bench-baseline: setup-dev ## write the regression guard's baseline anew: after a gain, or a loss that is worth it
	@PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/work.py

format: setup-dev ## put the code in order
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

setup: .venv/.demo-ready ## .venv with all that the demo needs

setup-dev: .venv/.dev-ready

# An installed package set is good until pyproject.toml changes.
.venv/.%-ready: pyproject.toml deploy/setup-machine.sh
	@PYTHON=$(PYTHON) bash deploy/setup-machine.sh .venv
	@echo "installing Python packages into .venv (minutes at the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(if $(filter dev,$*),dev,serve$(comma)speech)]'
	@touch $@

clean: ## remove what was built
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
