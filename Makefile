# Everything runs in .venv, which is made when it is missing and brought up to date when the versions change.
PYTHON ?= python3
OUT ?= runs/demo
SEED ?= 0

BIN = .venv/bin
# Floors 0 and 1, text, and the rules of the house: what a change to words, files or formulas can break.
QUICK = tests/test_architecture.py tests/test_check_names.py tests/test_contributing.py tests/records tests/config tests/runs tests/worlds tests/maths tests/text
READY = .venv/.ready

.PHONY: help demo quick test slow check format world-base clean

help:
	@echo "make demo        the whole pipeline on the built-in world, offline; OUT=$(OUT) SEED=$(SEED)"
	@echo "make quick       records, config, runs, worlds, maths, text: under 30 s"
	@echo "make test        all tests but the slow ones"
	@echo "make slow        the tests of whole stages"
	@echo "make check       names, ruff, the formatter, mypy"
	@echo "make format      let ruff mend what it can"
	@echo "make world-base  train the packaged base model again"
	@echo "make clean       remove .venv and caches; runs stay"

demo: $(READY)
	$(BIN)/sawyer demo --out $(OUT) --seed $(SEED)

quick: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(QUICK)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/python tools/check_names.py
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

world-base: $(READY)
	$(BIN)/python tools/world_base.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)
