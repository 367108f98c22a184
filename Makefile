# Everything a newcomer needs: `make demo`, `make test`, `make bench`, `make lint`.
# They make .venv (PYTHON=… and VENV=… name others) and install the versions of constraints.txt.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PORT ?= 8000
ARGS ?=
export VENV PYTHON

.PHONY: help demo base models dev test test-faults lint format bench docs words screenshots constraints clean

help:
	@echo "make demo           a catalogue of drawn flukes on http://127.0.0.1:8000 (PORT=…, ARGS='--photos DIR')"
	@echo "make test           every test but the fault set     make test-faults   processes and servers killed"
	@echo "make lint           ruff, mypy, import-linter        make bench         speed, against a plain reference"
	@echo "make base|models    install what serving needs | and what converting and training models needs"
	@echo "make docs           write the generated pages of docs/ and openapi.json anew"
	@echo "make words          bring service/web/locale up to what the pages say (docs/translating.md)"
	@echo "make screenshots    draw docs/screenshots anew, from drawn data, with a real Chromium"

base models dev:
	@sh scripts/environment.sh $@

demo: base
	@$(BIN)/resight demo --port $(PORT) $(ARGS)

test: dev
	@sh scripts/run_tests.sh -m "not faults" $(ARGS)

test-faults: dev
	@sh scripts/faketime.sh
	@$(BIN)/python -m pytest -m faults $(ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: dev
	$(BIN)/python scripts/bench_search.py
	$(BIN)/python scripts/bench_identify.py

docs: dev
	$(BIN)/python scripts/write_docs.py
	$(BIN)/python scripts/export_openapi.py

words: dev
	@$(BIN)/python scripts/words.py $(ARGS)

screenshots: dev
	@RESIGHT_CHROMIUM="$$(sh scripts/chromium.sh)" $(BIN)/python scripts/make_screenshots.py $(ARGS)

# For a fresh environment that was installed without constraints: what was chosen becomes what is tested.
constraints: dev
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+.*//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
