# make demo | test | lint | bench: each installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo dry-run test lint bench demo-model clean

help:
	@echo "make demo        generate completions for the shipped prompts with the shipped model"
	@echo "make test        run the tests (under 8 minutes on 2 cores)"
	@echo "make lint        ruff and mypy"
	@echo "make bench       measure exactness, acceptance and speed against AR and transformers"
	@echo "make demo-model  train the shipped demo model again, from text to head (about an hour on 2 cores)"

$(INSTALLED): pyproject.toml infra/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python jobs/generate.py --config configs/generate/demo.yaml

dry-run: $(INSTALLED)
	$(BIN)/python jobs/generate.py --config configs/generate/demo.yaml --dry-run

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not gpu and not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python jobs/evaluate.py --config configs/evaluate/demo.yaml

clean:
	rm -rf outputs build .pytest_cache .mypy_cache .ruff_cache .hypothesis
