# `make demo` and `make test` install what they need into .venv and run.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Threads that wait for each other sleep instead of spinning: beside another busy process on the same cores a network
# call is then slower by its share of the cores, not ten times slower.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lint install clean

demo: $(VENV)/cli
	$(BIN)/prescore demo --out demo.png

test: $(VENV)/dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
# A peer in tests. It asks for torchvision, which has no build for this torch, and works without.
	$(BIN)/python -m pip install --quiet --no-deps azula==0.11.1 einops==0.8.2
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
