# Each target first makes the environments it needs (scripts/setup), which takes a second when they are there.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo up test bench bench-context lint locks generate clean

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

demo: ## run a plan through all eight steps on real parts; ARGS="--test-case medium --keep" for more
	@scripts/setup
	@.venv/bin/fleet demo $(ARGS)

up: ## start the whole fleet on this machine and keep it running until Ctrl-C; ARGS="--free-ports"
	@scripts/setup
	@.venv/bin/fleet up $(ARGS)

test: ## all tests, on every line; ARGS="wire executor newest fleet quality e2e" picks suites
	@scripts/setup --all
	@.venv/bin/python scripts/run-tests $(ARGS)

bench: ## this system beside bare calls and other frameworks, in ten minutes; ARGS="--quick", "--profile orchestrator" or "--help"
	@scripts/setup --bench
	@.venv/bin/python -m bench $(ARGS)

bench-context: ## the context service on a graph of 100,000 decisions, embedded and Neo4j; ARGS="--quick", "--only embedded"
	@scripts/setup
	@.venv/bin/python -m bench.context $(ARGS)

lint: ## format, lint, types and import contracts, without changing anything
	@scripts/setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

locks: ## pin the newest allowed versions of all dependencies in requirements/*.lock
	@scripts/setup
	@requirements/compile

generate: ## gRPC stubs, specs/asyncapi.yaml and specs/plan.schema.json from their sources
	@scripts/setup
	@scripts/generate

clean: ## remove the environments, caches and test results; the state of a local stack (.fleet) stays
	@rm -rf .venv .venv-uv .venv-bench .venv-executor .venv-executor-newest build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find packages tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
