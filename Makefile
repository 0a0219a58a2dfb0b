# The whole life of a checkout. Needs make and Python 3.11 or later, nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash

CONFIG ?=
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))) python3)
BIN := .venv/bin
OVERLAYS := dev heterogeneous edge energy rayservice

# Without bytecode on disk every process of the tests compiles all modules and rewrites all assertions anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv run check test clean lock lint manifests

help: ## Show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: ## Set up .venv (nothing is done when it is up to date)
	@$(PYTHON) requirements/install.py

# exec: the command takes the place of the recipe's shell and gets Ctrl-C and signals itself.
run: venv ## Start everything and serve until Ctrl-C (CONFIG=configs/….yaml for another cluster)
	@exec $(BIN)/tidemill up $(if $(CONFIG),-c $(CONFIG)) --stop-with-parent

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy cluster deployments operators load_tests

check: lint ## The fast loop: lints, types, architecture, tests without engines (about three minutes on two cores)
	$(BIN)/pytest -q -n auto --dist worksteal tests --ignore tests/serve -m "not slow" --hypothesis-profile fast

test: lint ## Everything: check, long scenarios, then the tests that need Ray and engines
	$(BIN)/pytest -q -n auto --dist worksteal tests --ignore tests/serve
	$(BIN)/pytest -q tests/serve

manifests: venv ## Render the Kubernetes manifests in k8s/ from configs/kubernetes/
	$(BIN)/tidemill render -c configs/kubernetes/base.yaml -o k8s/base
	@for name in $(OVERLAYS); do \
	  $(BIN)/tidemill render -c configs/kubernetes/$$name.yaml -o k8s/overlays/$$name --base k8s/base || exit 1; done

lock: venv ## Make the pinned requirements anew (needs uv)
	$(BIN)/python requirements/lock.py

clean: ## Remove what the other targets made, converted weights included
	@if [ -x $(BIN)/tidemill ]; then $(BIN)/tidemill down --purge; fi
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
