# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PORT ?= 5000
# Of the experiment that was run last, as far as there is one: of config.yaml in results, of the demonstration below it.
ifndef RESULTS
RESULTS := $(patsubst %/experiment.yaml,%,$(firstword $(shell ls -t results/experiment.yaml results/demo/experiment.yaml \
	2>/dev/null) results/experiment.yaml))
endif
# Tests wait for processes and servers: one more at a time than there are cores.
PYTEST := pytest --numprocesses $(shell expr $$(nproc) + 1) --maxprocesses 4
# What is given on the command line reaches the shell as the value of a variable, never as a part of a command; value,
# so that make itself runs nothing in it either.
override PYTHON := $(value PYTHON)
override PORT := $(value PORT)
override RESULTS := $(value RESULTS)
override DATASET := $(value DATASET)
override A := $(value A)
override B := $(value B)
export PYTHON PORT RESULTS DATASET A B
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick test-slurm test-faults check format status compare browse ui lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(READY): requirements.lock envs/bootstrap.lock pyproject.toml
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ocsrflow needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV) (a few minutes at the first time, most of it PyTorch) ..."
	@"$$PYTHON" -m venv $(VENV)
	@python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r envs/bootstrap.lock
	@uv pip install --python $(VENV)/bin/python --require-hashes --compile-bytecode -r requirements.lock
	@uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY) ## Install everything into .venv; the other targets do so by themselves

demo: $(READY) ## Run the whole experiment at small scale, from embedded molecules to the report
	snakemake --workflow-profile workflow/profiles/demo

test: $(READY) ## Run the tests
	$(PYTEST) tests

test-quick: $(READY) ## Run the tests that take no minute, while one edits
	$(PYTEST) --quick tests/unit

test-slurm: $(READY) ## Run the experiment at toy size on a real SLURM of one node, started for it
	OCSRFLOW_FAULTS=full pytest tests/slurm

test-faults: $(READY) ## Kill, cut, fill and damage everything, for most of an hour; a table of it at the end
	OCSRFLOW_FAULTS=full $(PYTEST) tests/faults tests/fuzz tests/unit/training/test_resume.py

check: $(READY) ## Lint, check formats, types and imports, ask for known vulnerabilities of the packages
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/rules
	snakemake --lint
	mypy
	lint-imports
	python envs/audit.py

format: $(READY) ## Format the code
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow/rules

status: $(READY) ## Show how far a run is (RESULTS=results/demo)
	@python -m ocsrflow status "$$RESULTS"

compare: $(READY) ## Compare two folders of results (A=results/before B=results/demo)
	@test -n "$$A" && test -n "$$B" || { echo "give A=... and B=...: folders of results" >&2; exit 1; }
	@python -m ocsrflow compare "$$A" "$$B"

browse: $(READY) ## Show what is in a data set (DATASET=nci-short RESULTS=results/demo)
	@case "$$DATASET" in *[!A-Za-z0-9_-]*) echo "DATASET is the name of a data set, not a path" >&2; exit 1;; esac
	@test -f "$$RESULTS/datasets/$$DATASET/images.h5" || \
		{ echo "give DATASET=..., one of: $$(cd "$$RESULTS/datasets" 2>/dev/null && ls -d */images.h5 | cut -d/ -f1 | xargs)" >&2; exit 1; }
	@python -m ocsrflow browse "$$RESULTS/datasets/$$DATASET/images.h5" --others "$$RESULTS"/datasets/*/images.h5 \
		--lengths "$$RESULTS/datasets/$$DATASET/lengths.csv" \
		--rejects "$$RESULTS/datasets/$$DATASET/rejects/sample.csv" "$$RESULTS/datasets/$$DATASET/rejects/pack.csv" \
		--out "$$RESULTS/browse/$$DATASET.html"
	@echo "The page: $$RESULTS/browse/$$DATASET.html"

ui: $(READY) ## Browse the MLflow runs of a folder of results (RESULTS=results/demo PORT=5000)
	@python -m ocsrflow ui "$$RESULTS" --port "$$PORT"

lock: $(READY) ## Compile requirements.lock from pyproject.toml, and what follows from it
	uv pip compile --quiet --python-platform linux --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --upgrade --extra dev --output-file requirements.lock pyproject.toml
	python envs/pins.py

clean: ## Remove the virtual environment (results stay)
	rm -rf $(VENV)
