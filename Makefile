# Two environments in one place: `demo` needs the package, the checks need its tools too. Both are pinned by
# constraints.txt and installed again only when the files below change.
#
# On Linux the torch of PyPI carries CUDA (some GB); the smaller CPU build comes with
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make venv
.DEFAULT_GOAL := help
.PHONY: help demo venv test lint types format clean

PYTHON ?= python3
TORCH := torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PACKAGING := setup.cfg pyproject.toml constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

help: ## print this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## train on generated phantoms, print Dice, write a picture into demo_output/
	$(BIN)/medsegdiff demo

venv: $(INSTALLED_DEV) ## make .venv with the package and all that the checks need

test: lint types ## run all checks: lint, format, types, tests
	$(BIN)/python -m pytest

lint: $(INSTALLED_DEV) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED_DEV) ## check types
	$(BIN)/mypy

format: $(INSTALLED_DEV) ## mend style and format where that can be done safely
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, caches and what the demo wrote
	rm -rf $(VENV) build dist *.egg-info demo_output .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): $(PACKAGING)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: $(PYTHON) is missing or older than 3.10; name another: make PYTHON=python3.11" >&2; exit 2; }
	@echo "installing into $(VENV): a minute, more where torch brings CUDA"
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(TORCH) --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP_INSTALL) $(TORCH) --editable '.[dev,mlflow,onnx,ray]'
	@touch $@
