# The two commands of the README, and the habits. Everything runs inside .venv.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
CORES ?= 2
STAMP := $(VENV)/.installed
# an environment's scripts name its folder, and its python is a link to this machine's: a clone that
# was moved or copied needs another, and so does one whose interpreter is gone
find_moved = $(shell test -s $(1)/.installed && { test "$$(cat $(1)/.installed)" != "$$(cd $(1) && pwd -P)" || test ! -x $(1)/bin/python; } && echo moved)
MOVED := $(call find_moved,$(VENV))
MOVED_DOCS := $(call find_moved,.venv-docs)

# a container's user may have neither name nor home: Snakemake ends in a trace without
ifndef USER
export USER := $(shell id -un 2>/dev/null)
endif
ifndef XDG_CACHE_HOME
ifneq ($(shell mkdir -p "$$HOME/.cache" 2>/dev/null && test -w "$$HOME/.cache" && echo ours),ours)
export XDG_CACHE_HOME := $(abspath work/cache)
endif
endif

.PHONY: help docs floors report table1 test cluster crash setup drivers record merge lint format thorough typecheck bench demo-all claims audit reproduced golden strength lint-records moved

help:  ## what can be made
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## */\1#/p' Makefile | awk -F'#' '{printf "make %-13s %s\n", $$1, $$2}'

table1: setup  ## every stage, from data to results/table1.csv, at the scale of params.yaml
	snakemake -q rules host -c $(CORES) results/table1.csv
	@cat results/table1.md
	@echo "files: results/table1.csv .md .json .png; logs: logs/; edit params.yaml and run again"

report: setup  ## results/report.html: one page with all that is finished, to look at or mail
	snakemake -q rules host -c $(CORES) results/report.html
	@cat logs/present/report.log 2> /dev/null || echo "results/report.html: open it in a browser"

docs: .venv-docs/.installed  ## site/: the pages of docs/ and README to read in a browser, links checked
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "open site/index.html; to search in it: $(PYTHON) -m http.server -d site"

.venv-docs/.installed: envs/docs.txt $(MOVED_DOCS)
	$(PYTHON) -m venv $(if $(MOVED_DOCS),--clear) .venv-docs
	.venv-docs/bin/python -m pip install --quiet --requirement envs/docs.txt
	cd .venv-docs && pwd -P > .installed

test: setup  ## what CI runs
	$(MAKE) lint typecheck
	# One process more than cores: some tests wait for SLURM, for a kill, for another process. In the
	# order of their rooms: files of few long tests (tests/cluster) must not be the last.
	python -m pytest tests --numprocesses $$(( $(CORES) + 1 )) --dist loadfile --no-loadscope-reorder

thorough: setup  ## the cases that `make test` leaves out: more of what it shows once
	THOROUGH=1 python -m pytest tests -m thorough --numprocesses $(CORES) --dist loadfile

cluster: setup  ## on a private SLURM alone (needs root; .ci/slurm installs it)
	./.ci/slurm
	python -m pytest tests/cluster/test_cluster.py

setup: $(STAMP) drivers  ## .venv with the pinned packages, git's merge drivers for this clone

drivers:  # what .gitattributes names; git keeps such settings in a clone, never in a repository
	@if git rev-parse --git-dir > /dev/null 2>&1; then \
	git config merge.dvc.name "union of DVC pools" && \
	git config merge.dvc.driver "\"$(CURDIR)/$(VENV)/bin/python\" -m pipeline.share.driver %O %A %B" && \
	git config merge.ours.driver true; fi

record: setup  ## remember what was computed; then git commit, dvc push
	python -m pipeline record

merge: setup  ## make merge BRANCH=other: unite with a branch that trained something too
	python -m pipeline merge $(BRANCH)

$(STAMP): envs/cpu.txt envs/common.txt envs/nodeps.txt $(MOVED)
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(if $(MOVED),--clear) $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement envs/cpu.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --requirement envs/nodeps.txt
	cd $(VENV) && pwd -P > .installed

lint: setup  ## formatters in check mode, and the linters
	ruff format --check .
	ruff check .
	lint-imports --no-cache > /dev/null || lint-imports
	snakefmt --check Snakefile pipeline/rules
	snakemake --lint

format: setup  ## what lint asks for
	ruff format .
	ruff check --fix .
	snakefmt Snakefile pipeline/rules

typecheck: setup  ## mypy, strict
	mypy

strength: setup  ## attacks at full strength whatever the scale: results/strength.csv
	snakemake -q rules host -c $(CORES) results/strength.csv
	@cat results/strength.md

lint-records: setup  ## red flags of the scale's records that are here, and of the published numbers
	python -m pipeline lint

demo-all: setup  ## every row of every table but those apart, results/claims.md, every figure
	snakemake -q rules host -c $(CORES) tables figures

claims: setup  ## the papers' sentences against our tables and their own: results/claims.md
	snakemake -q rules host -c $(CORES) results/claims.md
	@cat results/claims.md

audit: setup  ## what the published gains are made of, step by step: results/audit.md
	snakemake -q rules host -c $(CORES) results/audit.csv
	@cat results/audit.md

reproduced: setup  ## every published number beside ours, with what is on disk: results/reproduced.md
	python -m pipeline.reproduced

golden: setup  ## after a change of results: new golden bytes for this kind of machine
	python tests/whole/golden/run.py

floors: setup  ## the oldest Snakemake, DVC and pandas that are promised, with the tests that lean on them
	./.ci/floors

crash: setup  ## 50 kills at random moments of a tiny plan, and at each point of each job; CI does a few
	CRASH_POINTS=50 python -m pytest -m crash tests/whole/test_crash.py -s
	CRASH_POINTS=50 python -m pytest -s tests/store/test_crash_points.py tests/share/test_merge_states.py

bench: setup  ## speed; see bench/RESULTS.md
	for name in attacks train plan state dvc rooms; do python -m bench.$$name || exit 1; done
