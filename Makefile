# Common tasks; `make` lists them.
#
# Packages come from complete locks, installed with --no-deps: see requirements/README.md. Each stamp is written last, so an
# interrupted install is done again, and depends on what it was made from, so a changed lock is installed.

VENV ?= .venv
CONFIG ?= configs/local.yaml
HOST ?=
PORT ?=
ARGS ?=

# Folders whose tests start no service: two processes run them, and one process the rest.
ALONE := tests/unit tests/properties tests/simulation tests/programs
NAMED := $(filter tests tests/%,$(ARGS))
# pytest -s and --pdb need the terminal, which worker processes do not have.
ATTACHED := $(filter --pdb --trace --capture=no,$(ARGS))$(findstring s,$(filter-out --%,$(filter -%,$(ARGS))))
WORKERS ?=

# Programs that tests use, and Debian's packages of them.
PROGRAMS := chromium redis-server prometheus promtool
SYSTEM := chromium redis-server prometheus

BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

# The locks were solved for 3.11, so it goes first.
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13,$(shell \
	$(name) -c 'import ensurepip, sys; (3, 11) <= sys.version_info < (3, 14) and print(sys.executable)' 2>/dev/null)))

UV_COMPILE_GPU := uv pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--no-header --no-emit-index-url --no-annotate --quiet
UV_COMPILE := $(UV_COMPILE_GPU) --override requirements/overrides.txt

.DEFAULT_GOAL := help
.PHONY: help install system run sim test test-long check bench bench-decide bench-latency bench-budgets chaos soak replay lock clean

help: ## list these tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(RUNTIME) ## install what `make run` needs into .venv

run: $(RUNTIME) ## serve: make run PORT=8000 HOST=127.0.0.1 CONFIG=configs/local.yaml
	@exec $(BIN)/embedding-router run --config $(CONFIG) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

system: ## install the programs that tests use, from Debian's packages, as root
	@missing=; for one in $(PROGRAMS); do command -v $$one >/dev/null || missing="$$missing $$one"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "make system: not root on Debian. Install$$missing yourself; tests that use them are skipped."; \
	else \
		apt-get update --quiet && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $(SYSTEM); \
	fi

# Workers must collect the same tests in the same order, so they hash alike.
PYTEST := PYTHONHASHSEED=0 $(BIN)/python -m pytest -m "not long"

test: $(TOOLS) ## run the tests; the quick ones: make test ARGS="tests/unit -m 'not models'"
ifeq ($(strip $(ARGS)),)
	@failed=0; NOT_RUN_FILE=$$(mktemp); export NOT_RUN_FILE; trap 'rm -f "$$NOT_RUN_FILE"' EXIT; \
	$(PYTEST) -n $(or $(WORKERS),2) $(ALONE) || failed=1; \
	$(PYTEST) -n $(or $(WORKERS),0) $(ALONE:%=--ignore=%) || failed=1; \
	[ ! -s "$$NOT_RUN_FILE" ] || { echo "not run, by part:"; cat "$$NOT_RUN_FILE"; }; \
	exit $$failed
else
	$(PYTEST) -n $(if $(ATTACHED),0,$(or $(WORKERS),$(if $(NAMED),$(if $(filter-out $(ALONE) $(ALONE:=/),$(NAMED)),0,2),0))) $(ARGS)
endif

test-long: $(TOOLS) ## run the longest tests: several Ray nodes, Qwen3, whole programs
	$(BIN)/python -m pytest -m long $(ARGS)

check: $(TOOLS) ## lint, format, types and every config
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/embedding-router check-config configs/*.yaml configs/extra/*.yaml cluster.yaml

bench: $(TOOLS) ## measure the data plane and a simulated device, or another benchmark: make bench ARGS=decide
	$(BIN)/python -m benchmarks $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m benchmarks device)

bench-decide: $(TOOLS) ## microseconds of a decision, and of a text's features
	$(BIN)/python -m benchmarks decide
	$(BIN)/python -m benchmarks features $(ARGS)

bench-latency: $(TOOLS) ## check predictions against a live service (4 min)
	$(BIN)/python -m benchmarks latency --config $(CONFIG) $(ARGS)

bench-budgets: $(TOOLS) ## share of requests answered in time under load (5 min)
	$(BIN)/python -m benchmarks budgets --config $(CONFIG) $(ARGS)

chaos: $(TOOLS) ## break one thing after another under load: make chaos ARGS="--scenario replica-killed"
	$(BIN)/python -m benchmarks chaos $(ARGS)

soak: $(TOOLS) ## mixed load with a fault every 20 s: make soak SECONDS=600
	$(BIN)/python -m benchmarks soak --seconds $(or $(SECONDS),600) $(ARGS)

replay: $(RUNTIME) ## decide a log again under another policy: make replay ARGS="decisions.jsonl --policy other.yaml"
	@$(BIN)/embedding-router replay $(ARGS)

sim: $(TOOLS) ## simulate the scenarios, and compare with the marks: make sim ARGS="--json marks.json"
	$(BIN)/python -m benchmarks sim $(ARGS)

lock: ## solve requirements/*.lock again (needs uv)
	$(UV_COMPILE) --extra cpu --extra local --extra redis --upgrade --output-file requirements/run.lock
	$(UV_COMPILE) --extra cpu --extra local --extra redis --extra advise --extra test --extra bench --upgrade --constraint requirements/run.lock \
		--output-file requirements/dev.lock
	$(UV_COMPILE_GPU) --extra gpu --extra redis --upgrade --output-file requirements/gpu.lock

clean: ## remove .venv, caches and builds
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 with venv found; install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements/run.lock pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --requirement requirements/run.lock
	$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(TOOLS): requirements/dev.lock $(RUNTIME)
	$(PIP_INSTALL) --requirement requirements/dev.lock
	@touch $@
