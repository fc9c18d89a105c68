# The one task menu. Each task is a small script under scripts/.
#
#   make            set up, build, start the service, run real programs through it, stop it
#   make test       everything that the tests need, then all tests
#   make help       the list
#
# What is made outside of target/ goes to .data/: packages, logs, results. `make clean` removes both.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := demo

# An ordinary user can write here; the installed program has its own place for data.
export AMPOULE_DATA_DIR ?= $(CURDIR)/.data

CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
RELEASE := $(CARGO_TARGET_DIR)/release/ampoule
DEBUG := $(CARGO_TARGET_DIR)/debug/ampoule

# Arguments of single tasks: `make bench BENCH="--quick --only soak"`, `make deny CHECKS=advisories`.
BENCH ?=
CHECKS ?= licenses bans sources

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  %-14s %s\n", $$1, $$2}'

# --- the two commands ---------------------------------------------------------------------------

.PHONY: demo
demo: setup ## Start the service, run the examples through it over HTTP, stop it (plain `make`)
	@scripts/demo.sh "$(RELEASE)"

.PHONY: test
test: ## Prepare what the tests need and run all of them
	@scripts/prerequisites.sh --tests
	@scripts/test.sh "$(DEBUG)"

.PHONY: test-container
test-container: prerequisites ## Test Ampoule inside containers of a Docker engine of its own (root)
	@cargo build --package ampoule-cli --locked
	@tests/setups/docker/test.sh "$(DEBUG)"

# --- set up and build ---------------------------------------------------------------------------

.PHONY: setup
setup: prerequisites build ## Check what is needed, build, install the packages that programs find
	@scripts/packages.sh "$(RELEASE)"

.PHONY: prerequisites
prerequisites:
	@scripts/prerequisites.sh

.PHONY: build
build: ## Build the one binary (release) and print its path
	@echo "== building (the first build takes some minutes)"
	@cargo build --release --locked --package ampoule-cli
	@echo "$(RELEASE)"

# --- the service --------------------------------------------------------------------------------

.PHONY: start stop restart logs
start: setup ## Start the service in the background (SANDBOX_EXECUTOR_MANAGER_PORT, default 9385)
	@scripts/service.sh start "$(RELEASE)"

stop: ## Stop the service and wait until it is gone
	@scripts/service.sh stop

restart: setup ## Stop and start the service
	@scripts/service.sh stop
	@scripts/service.sh start "$(RELEASE)"

logs: ## Show the log of the service (and follow it on a terminal)
	@scripts/service.sh logs

.PHONY: bench
bench: setup stop ## Measure beside the bare interpreters (docs/benchmarks.md; BENCH=--quick takes minutes)
	@cargo build --release --locked --package ampoule-bench
	@"$(CARGO_TARGET_DIR)/release/ampoule-bench" --binary "$(RELEASE)" --data-dir "$(AMPOULE_DATA_DIR)" \
		--json "$(CURDIR)/.data/bench.json" $(BENCH)

# --- checks (.ci/run runs them all) -------------------------------------------------------------

.PHONY: fmt lint deny doc
fmt: ## Check the format
	@cargo fmt --all --check

lint: ## Run clippy (warnings are errors) and check scripts and documents
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@scripts/lint-scripts.sh
	@python3 -I scripts/check-docs.py

deny: ## Check licences, bans and sources of all crates (CHECKS=advisories needs the database)
	@cargo deny --locked check $(CHECKS)

doc: ## Build the documentation with warnings as errors
	@RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Some of the machine's own tests only: `make test-vm CASES="Root AloneUser"`.
.PHONY: test-vm
test-vm: prerequisites ## Prove control groups v2 in an emulated machine (as root on Debian; ten minutes)
	@tests/setups/vm/run.sh $(CASES)

# --- the end ------------------------------------------------------------------------------------

.PHONY: clean
clean: stop ## Stop the service and remove everything that was made here
	@cargo clean
	@rm -rf "$(CURDIR)/.data"
