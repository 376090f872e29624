# djprobes: `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv/bin
CONFIG := pyctl/pyproject.toml
SOAK_COMMITS ?= 100000
# Files of tests that run at a time: each has a guest, which is busy half of the time. Those
# with guests first: the others are short, and fill up the end.
TEST_WORKERS ?= 2
TEST_ORDER := --dist loadfile --no-loadscope-reorder tests/vm tests/unit
BENCHES := hits rate batch native quiesce
KDIR ?= /lib/modules/$(shell uname -r)/build
PYTEST := $(VENV)/python -m pytest -c $(CONFIG) --rootdir=.
# what ruff and mypy look at; a folder that is not there yet is left out
PYTHON := $(wildcard pyctl vm tests)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: bootstrap
bootstrap: ## install what is missing: one apt call, one virtual environment
	@vm/bootstrap/host.sh

.PHONY: demo
demo: bootstrap ## boot a stock kernel, probe it under load, show that the counts agree
	@$(VENV)/djp demo

.PHONY: census
census: bootstrap ## judge every instruction of a guest's kernel; picture in build/census.svg
	@$(VENV)/djp census --boot bookworm-cloud --picture build/census.svg

.PHONY: bench
bench: bench-hits bench-rate bench-batch bench-quiesce ## measure hits, rates, batches and quiescence beside mainline; build/bench-*

# One of them, say bench-native (ARGS=).
.PHONY: $(BENCHES:%=bench-%)
$(BENCHES:%=bench-%): bench-%: bootstrap
	@$(VENV)/djp bench $* --svg build/bench-$*.svg --save build/bench-$*.json $(ARGS)

.PHONY: soak
soak: bootstrap ## commit SOAK_COMMITS times while the guest is given no peace (ARGS=)
	@$(VENV)/djp soak --commits $(SOAK_COMMITS) $(ARGS)

.PHONY: vm-test
vm-test: bootstrap ## the tests, those in guests too (ARGS= is passed to pytest)
	@$(PYTEST) -n $(TEST_WORKERS) $(TEST_ORDER) -m "not product" $(ARGS)

.PHONY: vm-test-all
vm-test-all: bootstrap ## those too that try every combination of who is held, how and by which strategy; more counter-examples
	@$(PYTEST) -n $(TEST_WORKERS) $(TEST_ORDER) $(ARGS)

.PHONY: unit-test
unit-test: bootstrap ## the tests that need no guest
	@$(PYTEST) tests/unit $(ARGS)

.PHONY: modules
modules: ## build the kernel module for KDIR (default: the running kernel)
	$(MAKE) -C kmod KDIR=$(KDIR) modules

.PHONY: check
check: bootstrap ## ruff, mypy --strict; the kernel modules under W=1 and sparse
	$(VENV)/ruff check --config $(CONFIG) $(PYTHON)
	$(VENV)/ruff format --check --config $(CONFIG) $(PYTHON)
	$(VENV)/mypy --config-file $(CONFIG) -p pyctl -p vm
	$(VENV)/python -m vm.checking

.PHONY: clean
clean: ## remove what was built in the tree, and the virtual environment
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	if [ -f kmod/Makefile ] && [ -d "$(KDIR)" ]; then $(MAKE) -C kmod KDIR=$(KDIR) clean; fi

.PHONY: clean-cache
clean-cache: bootstrap ## end all kept guests and remove every image, key and snapshot
	@$(VENV)/python -m vm.cleaning
