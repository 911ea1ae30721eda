# Everything a newcomer types. `make ablation` and `make test` set themselves up.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# one thread a test process: two processes on two cores, and sums that do not depend on the machine
TEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: ablation test test-slow lint lock install clean docs

ablation: .venv/installed
	$(BIN)/isometry train -m study=vanishing_exploding

test: .venv/installed
	$(TEST) -m "not slow"

test-slow: .venv/installed
	$(TEST) -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: .venv/installed

# plain pip with hashes: nothing is needed but python
.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# every version pinned and hashed, for every platform, no registry's address in the file
lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements.lock

clean:
	rm -rf .venv runs data

# the pictures and tables of docs/, written again
docs: .venv/installed
	$(BIN)/isometry train -m study=vanishing_exploding
	cp runs/vanishing_exploding/gradient_against_depth.png docs/
	$(BIN)/isometry figure all preset=quick
	$(BIN)/python scripts/figure_docs.py
