# Everything runs in .venv, which `make setup` fills and every other target asks for.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
# Parallel test processes: one a core, at most 8. Set WORKERS=0 to debug.
WORKERS ?= auto
ARGS ?=
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup test test-all bridge lowest demo check format tiny clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(STAMP) ## Create .venv and install the project with everything the tests need

# torch goes first and alone: a CPU-only wheel that pip already knows of (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL) is then
# taken by its version, before the resolver can ask for the default build and its gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "textenvs needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[agents,sb3,dev]'
	@touch $@

test: $(STAMP) ## Run the core tests and the docstring examples, in minutes (ARGS="-k bleu" for some of them)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(STAMP) ## Run all tests, slow ones included, with every random example: what CI runs
	$(PYTEST) --hypothesis-profile=all $(ARGS)

# Needs no .venv: the library gets an environment of its own, in .venv-bridges/NAME.
bridge: ## Run the tests with an outside library (NAME=torchrl) and record the result in docs/bridges.md
	$(PYTHON) -m tests.bridges $(NAME)

# Needs no .venv either: environments of its own, in .venv-lowest. Its Python is the oldest allowed, python3.11.
lowest: ## Run part of the tests on the lowest versions that pyproject.toml allows (PYTHON=python3.11)
	$(PYTHON) -m tests.lowest $(NAME)

demo: $(STAMP) ## Train the bundled model with PPO, a minute or two on a CPU, into runs/
	$(BIN)/python -m agents train --algorithm ppo --env TextGen-v0 --model tiny $(ARGS)

check: $(STAMP) ## Lint, check the format, the layers of imports and the types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

format: $(STAMP) ## Format, and fix what the linter can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

tiny: $(STAMP) ## Train the bundled model again from its corpus
	$(BIN)/python -m agents.data.train_tiny $(ARGS)

clean: ## Remove build products and caches; .venv and runs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find textenvs agents tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
