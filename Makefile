# Everything runs in .venv, which is made when it is missing and brought up to date when the versions change.
PYTHON ?= python3
OUT ?= runs/demo
SEED ?= 0

BIN = .venv/bin
READY = .venv/.ready

.PHONY: help demo test slow check format world-base clean

help:
	@echo "make demo        the whole pipeline on the built-in world, offline; OUT=$(OUT) SEED=$(SEED)"
	@echo "make test        the quick tests"
	@echo "make slow        the tests of whole stages"
	@echo "make check       ruff, the formatter, mypy"
	@echo "make format      let ruff mend what it can"
	@echo "make world-base  train the packaged base model again"
	@echo "make clean       remove .venv and caches; runs stay"

demo: $(READY)
	$(BIN)/sawyer demo --out $(OUT) --seed $(SEED)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY)
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
