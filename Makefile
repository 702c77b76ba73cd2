# One door to everything. Needs Python 3.11+, make, a C compiler and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo serve observability install test check api chaos bench format protos diagrams dashboards lock clean

help: ## List what can be done here
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

demo: $(STAMP) ## Watch 100 invoices become posted, classified, metered results
	@$(BIN)/bpa demo

serve: $(STAMP) ## Keep everything running here and print every address
	@$(BIN)/bpa serve --role all

observability: $(STAMP) ## Watch what make serve does: Prometheus with the dashboards and alerts
	@$(BIN)/python -m observability

install: $(STAMP) ## Set up the virtual environment from hash-locked requirements
	@echo "Installed: $(BIN)/bpa"

check: $(STAMP) ## Format, lint, types, layers, unit tests: under a minute
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest tests/unit

test: check ## Everything, with real servers and processes
	@$(BIN)/python -m pytest -n 2 --dist worksteal tests/integration tests/e2e
	@$(BIN)/python -m pytest tests/browser
	@$(BIN)/python -m pytest tests/chaos

api: $(STAMP) ## Have Schemathesis explore the API at random; SECONDS=600 for so long
	@API_SECONDS=$(or $(SECONDS),300) $(BIN)/python -m pytest tests/integration/api/test_schemathesis.py

chaos: $(STAMP) ## Do every kind of harm to a fleet at work; SEED=7 CASE=kill-nodes repeat one
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE))

bench: $(STAMP) ## Measure: load, what durability and telemetry cost, the emulator, a million runs
	@$(BIN)/python -m tests.bench

format: $(STAMP) ## Format the code and mend what a linter can mend
	@$(BIN)/ruff format -q .
	@$(BIN)/ruff check -q --fix .

protos: $(STAMP) ## Generate the node link's messages from bpa/protos/bpa.proto
	@PATH="$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I bpa/protos \
		--python_betterproto2_out=bpa/protos \
		--python_betterproto2_opt=server_generation=async,client_generation=async \
		bpa/protos/bpa.proto

diagrams: $(STAMP) ## Draw docs/run-states.md from the table of a run's transitions
	@$(BIN)/python -m tests.unit.run_states

dashboards: $(STAMP) ## Draw config/dashboards from observability/dashboards
	@$(BIN)/python -m observability.grafana

lock: $(STAMP) ## Lock the requirements anew, with hashes and without host names
	@$(BIN)/pip install -q uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate pyproject.toml requirements/dev.in -o requirements/dev.txt --upgrade

clean: ## Remove the virtual environment and the local data
	@rm -rf $(VENV) .bpa

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3" >&2; exit 1; }
	@command -v "$${CC:-cc}" >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 \
		|| { echo "A C compiler is needed (python-qpid-proton has no wheel): install gcc" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' \
		|| { echo "Python's headers are needed as well (Python.h): install python3-dev" >&2; exit 1; }
	@echo "Setting up $(VENV) (about a minute) ..." >&2
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python's venv module is needed: install python3-venv" >&2; exit 1; }
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)
