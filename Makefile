# Everything sets itself up in .venv: `make demo` and `make test` need only Python 3.11+ and the package index.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One process a core; each runs its models on one thread.
WORKERS ?= -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo test test-slow lint types check zoo tables clean

# A real model that has no layer to spare, and a small one that was trained to have some.
demo: $(READY)
	$(BIN)/conflayers demo --dtype bfloat16
	$(BIN)/conflayers demo tests/zoo/dropout-24 --max-new-tokens 512 --prompt "class Reader:"

test: $(READY)
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow $(WORKERS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test

$(READY): pyproject.toml scripts/setup
	PYTHON="$(PYTHON)" scripts/setup
	touch $@

# An hour or two: three small models from scratch, with fixed seeds, and what they can do.
zoo: $(READY)
	$(BIN)/python tests/zoo/train.py
	$(BIN)/python tests/zoo/held_out.py
	$(BIN)/python tests/zoo/card.py

# Under an hour on two cores, with nothing else running: every table of the README, measured and written anew.
# The table of Spec-Bench wants its questions, and llama.cpp in it the same weights: make tables QUESTIONS=... GGUF=...
tables: $(READY)
	$(BIN)/python benchmarks/tables.py $(if $(QUESTIONS),--questions $(QUESTIONS)) $(if $(GGUF),--gguf $(GGUF))

clean:
	rm -rf .venv
