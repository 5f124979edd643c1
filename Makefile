# The two commands of the README, and the habits. Everything runs inside .venv.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
CORES ?= 2
STAMP := $(VENV)/.installed

.PHONY: table1 test setup lint format typecheck bench demo-all golden strength lint-records

table1: setup  ## every stage, from data to results/table1.csv, at the scale of params.yaml
	snakemake -q rules -c $(CORES) results/table1.csv
	@cat results/table1.md
	@echo "files: results/table1.csv .md .json .png; logs: logs/; edit params.yaml and run again"

test: setup  ## what CI runs
	$(MAKE) lint typecheck
	python -m pytest tests

setup: $(STAMP)  ## .venv with the pinned packages

$(STAMP): envs/cpu.txt envs/common.txt envs/nodeps.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement envs/cpu.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --requirement envs/nodeps.txt
	touch $@

lint:  ## formatters in check mode, and the linters
	ruff format --check .
	ruff check .
	snakefmt --check Snakefile pipeline/rules
	snakemake --lint

format:
	ruff format .
	ruff check --fix .
	snakefmt Snakefile pipeline/rules

typecheck:
	mypy

strength: setup  ## attacks at full strength whatever the scale: results/strength.csv
	snakemake -q rules -c $(CORES) results/strength.csv
	@cat results/strength.md

lint-records: setup  ## red flags of every record on disk, and of the published numbers
	python -m pipeline.lint

demo-all: setup  ## every row of every table, at the scale of params.yaml
	snakemake -q rules -c $(CORES) tables

golden: setup  ## after a change of results: new golden bytes for this kind of machine
	python tests/golden/run.py

bench: setup  ## speed; see bench/RESULTS.md
	for script in bench/*.py; do python $$script; done
