# `make help` explains each target. Nothing here needs a GPU or a hub unless MODEL or SUITE says so.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# make reproduce-table TABLE=chair MODEL=llava_1_5_7b LIMIT=100 ARGS="budget=[64]"
MODEL ?= demo
SUITE ?= $(if $(filter demo,$(MODEL)),embedded,hub)
TABLES := main 13b next qwen chair enhancement_hybrid enhancement_mixture
TABLE ?= $(or $(filter $(MODEL),$(basename $(notdir $(wildcard configs/table/*.yaml)))),main)
# The recipe of a table on the model that the paper has it of; MODEL=own takes that one.
OWN_main := llava_1_5_7b
OWN_13b  := llava_1_5_13b
OWN_next := llava_next_7b
OWN_qwen := qwen2_5_vl_7b
OWN_chair := llava_1_5_7b_chair
OWN_enhancement_hybrid  := llava_1_5_7b_enhancement_hybrid
OWN_enhancement_mixture := llava_1_5_7b_enhancement_mixture
OWN_deployed  := llava_1_5_7b_deployed
OWN_grounding := llava_1_5_7b_grounding qwen2_5_vl_7b_grounding
own    = $(if $(filter own,$(MODEL)),$(firstword $(OWN_$1)),$(filter $(MODEL) $(MODEL)_%,$(OWN_$1) $(filter $(MODEL),$1)))
moved  = table=$1 model=$(MODEL) suite=$(SUITE) $(if $(filter demo,$(MODEL)),,protocol=paper name=$1_$(MODEL))
recipe = $(if $(call own,$1),table=$(call own,$1) suite=$(SUITE),$(moved))
WANTED := $(if $(filter all,$(TABLE)),$(foreach t,$(TABLES),$(if $(filter demo,$(MODEL))$(call own,$t),$t)),$(TABLE))
override LIMIT := $(if $(LIMIT),limit=$(LIMIT))
override DRY   := $(if $(DRY_RUN),dry_run=true)

.DEFAULT_GOAL := help
.PHONY: help setup reproduce-table analyses sweep test test-slurm check docs doctor speed wheel clean

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  TABLE=$(subst $() ,|,$(strip $(TABLES)))"
	@echo "        or all: runs what is missing (tables share cells, nothing is answered twice) and prints each"
	@echo "  MODEL=demo (synthetic, on any CPU), own (the table's own model, from the hub), or a name:"
	@echo "        $(sort $(basename $(notdir $(wildcard configs/model/*.yaml))))"
	@echo "  LIMIT=20 for a first look; DRY_RUN=1 to see costs and run nothing; ARGS=\"budget=[64]\" for any setting"

setup: $(STAMP) ## Make the environment in .venv (once; in seconds when it exists)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else "agilepruner needs Python 3.11 to 3.13; this is %d.%d. Say which: make PYTHON=python3.11" % v[:2])'
	@echo "setup 1/3: an environment in $(VENV) (seconds)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup 2/3: torch, transformers, lmms-eval and what they need, at the versions of constraints.txt"
	@echo "           (the first time minutes, most of them download; in a terminal pip shows how far it is)"
	@$(BIN)/python -m pip install $$(test -t 1 || echo --quiet) --disable-pip-version-check \
		--constraint constraints.txt --editable '.[test,dev,demo]'
	@echo "setup 3/3: whether torchvision fits this torch (seconds)"
	@$(BIN)/python scripts/check_torchvision.py --remove
	@touch $@

reproduce-table: $(STAMP) ## Print a table of the paper, measured (TABLE=, MODEL=: see below)
	@status=0; $(foreach t,$(WANTED),$(BIN)/agilepruner $(call recipe,$t) $(LIMIT) $(DRY) $(ARGS) || status=$$?; \
		[ $$status != 130 ] || exit 130;) exit $$status

analyses: $(STAMP) ## The paper's study, every analysis, and docs/study.md (LIMIT=20 for a first look)
	@status=0; $(BIN)/agilepruner study model=$(MODEL) suite=$(SUITE) $(LIMIT) $(DRY) $(ARGS) || status=$$?; \
		[ -n "$(DRY)" ] || [ $$status = 130 ] || $(BIN)/python scripts/study_page.py; exit $$status

sweep: $(STAMP) ## Any run: make sweep ARGS="strategy=[divprune,fastervlm] budget=[32,64]"
	@$(BIN)/agilepruner $(ARGS)

test: $(STAMP) ## Run the tests (no network, no GPU)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

test-slurm: $(STAMP) ## Test launcher=slurm on a SLURM of one node (root; slurmctld and munge installed)
	@tests/one_node_slurm.sh start build/slurm
	@SLURM_CONF=$(CURDIR)/build/slurm/slurm.conf $(BIN)/python -m pytest tests/test_slurm.py -k "array or preempted"; status=$$?; \
		tests/one_node_slurm.sh stop build/slurm; exit $$status

check: $(STAMP) ## Lint, format, types, who may import whom, and whether generated docs are new
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python scripts/strategy_table.py --check

docs: $(STAMP) ## Write the README's table of strategies from their classes
	@$(BIN)/python scripts/strategy_table.py

doctor: $(STAMP) ## Check versions, torchvision, GPU, disk, hub token and NLTK data
	@$(BIN)/agilepruner doctor

speed: $(STAMP) ## Measure selection speed and the gain of the grid (ratios in one run)
	@$(BIN)/python scripts/benchmark_selection.py
	@$(BIN)/python scripts/benchmark_sweep.py

wheel: $(STAMP) ## Build the wheel and try it in a new environment and an empty folder
	@$(BIN)/python scripts/try_wheel.py

clean: ## Remove the environment and caches; results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
