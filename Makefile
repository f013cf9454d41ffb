# `make demo` and `make test` install what they need into .venv and run.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Threads that wait for each other sleep instead of spinning: beside another busy process on the same cores a network
# call is then slower by its share of the cores, not ten times slower.
export OMP_WAIT_POLICY ?= passive

# Data of the experiments, and where their quick runs go.
MNIST ?= data/mnist.npz
NATURAL ?= data/natural.npz
TOPOGRAPHY ?= data/topography.npz
FASHION ?= data/fashion-mnist.npz
QUICK ?= experiments/quick

# Experiments in the order of docs/results.md; NAME_DATA is the file that one reads, NAME_OPTIONS what a full run takes.
EXPERIMENTS = toy_gaussian power_law steps_grid distance_tables seconds_per_iteration subspace conditioning \
  alpha_relation alpha_samples automatic_alpha skew skew_steps ncsn_mnist ncsnv2_steps latent_mnist latent_langevin \
  edm_stochasticity edm_schedules edm_training seeds_tables seeds_trajectories
$(foreach name,ncsn_mnist ncsnv2_steps latent_mnist latent_langevin,$(eval $(name)_DATA = $(MNIST)))
$(foreach name,distance_tables subspace alpha_samples automatic_alpha edm_stochasticity edm_schedules edm_training seeds_tables \
  seeds_trajectories,$(eval $(name)_DATA = $(NATURAL)))
$(foreach name,distance_tables automatic_alpha edm_stochasticity edm_schedules seeds_tables,\
  $(eval $(name)_OPTIONS = --images $(MNIST)))
automatic_alpha_OPTIONS += --data $(TOPOGRAPHY) $(FASHION)
steps_grid_OPTIONS = --models mnist-ve natural-edm emoji-ve topography-edm

.PHONY: demo test lint site gpu fuzz install clean experiments experiments-data experiments-quick figures

demo: $(VENV)/cli
	$(BIN)/prescore demo --out demo.png

test: $(VENV)/dev lint site
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages, into build/site; a broken link or reference is an error.
site: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "The pages begin at build/site/index.html"

# Every check that needs a GPU, at most 8 minutes; writes benchmarks/results/gpu.json.
gpu: $(VENV)/dev
	$(BIN)/python benchmarks/gpu.py

# Hostile input for some minutes; prints what was tried, and what failed.
fuzz: $(VENV)/dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --minutes $(or $(MINUTES),10)

install: $(VENV)/dev

# torch first and alone: a plain range would bring gigabytes of CUDA to a machine without a GPU.
$(VENV)/torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/cli: $(VENV)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[cli]' -c constraints.txt
	touch $@

$(VENV)/dev: $(VENV)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
# Peers in tests. They ask for torchvision, which has no build for this torch, and work without.
	$(BIN)/python -m pip install --quiet --no-deps azula==0.11.1 einops==0.8.2 k-diffusion==0.1.1.post1
	touch $@

# All of them one after another; hours. One alone: make experiment-NAME
experiments: experiments-data $(EXPERIMENTS:%=experiment-%)

experiments-data:
	@for file in $(sort $(MNIST) $(NATURAL) $(TOPOGRAPHY) $(FASHION)); do test -f "$$file" || { missing=1; \
	  echo "$$file: no such file; docs/experiments.md says what it is to hold. Say where it is by" \
	  "make experiments MNIST=FILE NATURAL=FILE TOPOGRAPHY=FILE FASHION=FILE" >&2; }; done; test -z "$$missing"

experiment-%: $(VENV)/cli
	$(BIN)/python experiments/$*.py $($*_DATA:%=--data %) $($*_OPTIONS)

# Figures and sections of docs/results.md again, from stored results.
figures: $(VENV)/cli
	$(BIN)/python experiments/redraw.py

# Smoke runs, minutes; those whose data are not there are left out.
experiments-quick: $(EXPERIMENTS:%=quick-%)

quick-%: $(VENV)/cli
	@if [ -n "$($*_DATA)" ] && [ ! -f "$($*_DATA)" ]; then echo "$*: left out, no file $($*_DATA)"; else \
	  echo "$*"; $(BIN)/python experiments/$*.py --quick --folder $(QUICK) $($*_DATA:%=--data %); fi

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
