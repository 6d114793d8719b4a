PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/spot
FIGURES ?= runs/figures
IMAGES := docs/images
BUDGET ?= 10min
EXPERIMENTS := $(sort $(notdir $(patsubst %/experiment.py,%,$(wildcard experiments/*/experiment.py))))
MODELS := $(basename $(notdir $(wildcard lazsim/catalog/models/*.toml)))
LOWEST := build/lowest
DEVICE ?= cuda
GPU_PYTHON ?= 3.12
GPU_PACKAGES := hypothesis iniconfig markdown-it-py mdurl msgspec packaging pluggy pygments pytest rich scipy simpy sortedcontainers threadpoolctl
COMMAND_TESTS := $(addprefix tests/test_,cli_list.py cli_run.py cli_place.py cli_trace.py cli_sweep.py table.py plots.py)
SOURCES := setup.cfg pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run figures arena test check types lowest docs images sdist verify bench profiles gpu wheels growth format clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

define install
	$(PYTHON) -c 'import sys; sys.exit("lazsim needs Python 3.11 or later: make PYTHON=python3.x ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.$(1)'
	@touch $@
endef

$(VENV)/run.stamp: $(SOURCES)
	$(call install,)

$(VENV)/dev.stamp: $(SOURCES)
	$(call install,[dev])
	@touch $(VENV)/run.stamp

run: $(VENV)/run.stamp ## Replay a spot trace for GPT-L under lazarus and its rivals; results in runs/spot
	$(BIN)/lazsim run --trace traces/spot-p3-like.csv --model gpt-l --cluster rtx3090x10 --max-nodes 10 --duration 80min \
		--system lazarus --system dropless-ft --system tutel-ft --system ds-ft --system ds --out $(OUT)

figures: $(VENV)/run.stamp ## Make the published evaluation again: every table and figure, in runs/figures
	$(BIN)/lazsim experiment run $(filter-out arena,$(EXPERIMENTS)) --out $(FIGURES)

arena: $(VENV)/run.stamp ## Hold every system against the others by rate and size of failures, in runs/figures
	$(BIN)/lazsim experiment run arena --out $(FIGURES)

# Tests start some 200 processes, and each would compile lazsim anew.
test: export PYTHONDONTWRITEBYTECODE =
test: check ## Run the checks and every test
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: $(VENV)/dev.stamp ## Lint, type-check and build the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs 2 --output-sync docs types

types: $(VENV)/dev.stamp
	$(BIN)/mypy

lowest: ## Test the commands with the lowest versions that setup.cfg allows
	$(PYTHON) -m venv --clear $(LOWEST)
	sed -n 's/^ \+\([A-Za-z_-]*\)\(\[[a-z]*\]\)\?>=\([0-9.]*\).*/\1==\3/p' setup.cfg | sort -u > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt . pytest hypothesis
	@# Old libraries warn of each other.
	$(LOWEST)/bin/python -m pytest -p no:cacheprovider -o filterwarnings=default $(COMMAND_TESTS)

docs: $(VENV)/dev.stamp ## Build the documentation in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

sdist: $(VENV)/dev.stamp ## Build the source distribution and the wheel in build/dist
	$(BIN)/python -m build --outdir build/dist

verify: $(VENV)/run.stamp ## Hold predicted steps against published training runs; results in runs/verify
	$(BIN)/lazsim verify --out runs/verify

bench: $(VENV)/dev.stamp ## Time simulator, planner, sweeps and command line; fuzz inputs; end commands at any moment; train through kills
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench_fuzz
	$(BIN)/python -m tests.bench_sweep
	$(BIN)/python -m tests.bench_signals
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench_live

profiles: $(VENV)/dev.stamp ## Measure the kernels of every model on this device, for the catalogue: make profiles NAME=...
	@test -n "$(NAME)" || { echo "give the device a name: make profiles NAME=h200" >&2; exit 2; }
	for model in $(MODELS); do \
		$(BIN)/lazsim profile --model $$model --budget $(BUDGET) --out lazsim/catalog/profiles/$(NAME)/$$model.csv || exit; \
		$(BIN)/lazsim profile check $(NAME) --model $$model || exit; \
	done

gpu: BUDGET = 9min
gpu: TOTAL ?= 25min
gpu: ## Do all that needs a GPU, with what is installed; again: go on. DEVICE=cpu rehearses it
	$(PYTHON) -m tests.measure_gpu --device $(DEVICE) --budget $(BUDGET) --total $(TOTAL)

wheels: ## Fetch what a GPU machine without a network may lack, for make gpu
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
		--python-version $(GPU_PYTHON) --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --constraint constraints.txt --dest wheels $(GPU_PACKAGES)

images: $(VENV)/run.stamp ## Draw the pictures of the documentation anew, by the commands that its pages show
	$(MAKE) run OUT=runs/spot
	$(BIN)/lazsim recovery --nodes 10 --slots 6 --experts 8 --loads uniform --min-replicas 2 --out runs/recovery
	$(BIN)/lazsim place --nodes 10 --slots 6 --experts 8 --loads zipf:0.5 --policy mro --policy euclid --policy spread --policy eplb --out runs/place
	sed 's/^duration_s = .*/duration_s = 2592000.0/' lazsim/catalog/traces/spot-a100-like.toml > runs/month.toml
	$(BIN)/lazsim trace generate runs/month.toml --seed 0 --out runs/month.csv
	$(BIN)/lazsim run --trace runs/month.csv --model gpt-l --cluster a10gx16 --job testbed-b --max-nodes 16 --cap clip \
		--system lazarus --system dropless-ft --system ds-ft --system ds --out runs/month
	$(BIN)/lazsim run --trace runs/month.csv --model gpt-l --cluster a10gx16 --job testbed-b --max-nodes 16 --cap clip --system lazarus \
		--placement mro --placement euclid --placement spread --placement compact --out runs/placements
	cp runs/spot/throughput.png runs/recovery/recovery.png $(IMAGES)
	cp runs/place/placement.png $(IMAGES)/placement-map.png
	cp runs/month/throughput.png $(IMAGES)/tutorial-month.png
	cp runs/placements/placements.png $(IMAGES)/tutorial-placements.png
	@echo 'the others: make growth (growth.png, growth-runs.png), lazsim validate (validate.png),'
	@echo 'lazsim experiment run uncertainty (spot-dropless-ft.png as tornado.png) and arena (winners.png as arena.png)'

growth: $(VENV)/dev.stamp ## Plot how the cost of runs, placement and reliability grows
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.bench_runs docs/images/growth-runs.png
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.bench_placement docs/images/growth.png

format: $(VENV)/dev.stamp ## Format the code and sort its imports
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

clean: ## Remove what make installed and wrote
	rm -rf $(VENV) build runs .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
