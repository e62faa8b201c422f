# Two environments in one place: `demo` needs the package, the checks need its tools too. Both are pinned by
# constraints.txt and installed again only when the files below change. MONAI Label needs older versions of some
# libraries, so that `label-env` makes a third one, pinned by constraints-label.txt, in a place of its own.
#
# On Linux the torch of PyPI carries CUDA (some GB); the smaller CPU build comes with
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make venv
.DEFAULT_GOAL := help
.PHONY: help demo venv label-env test test-label lint types format clean

PYTHON ?= python3
TORCH := torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
LABEL_VENV ?= .venv-label
LABEL_BIN := $(LABEL_VENV)/bin
INSTALLED_LABEL := $(LABEL_VENV)/.installed
PACKAGING := setup.cfg pyproject.toml constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The sources of MONAI Label's SAM2 are built without CUDA kernels and with the torch that is there: an isolated build
# would bring another one, with CUDA.
PIP_INSTALL_LABEL := SAM2_BUILD_CUDA=0 $(LABEL_BIN)/python -m pip install --quiet --disable-pip-version-check \
	--no-build-isolation --constraint constraints-label.txt

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## train on generated phantoms, print Dice, write a picture into demo_output/
	$(BIN)/medsegdiff demo

venv: $(INSTALLED_DEV) ## make .venv with the package and all that the checks need

label-env: $(INSTALLED_LABEL) ## make .venv-label with the package and MONAI Label

test: lint types ## run all checks: lint, format, types, tests
	$(BIN)/python -m pytest

# Beside those of the app, the tests of all that meets the older numpy, pydicom and highdicom; torch is the same.
test-label: $(INSTALLED_LABEL) ## run the tests of the MONAI Label app, and those of what it stands on, in .venv-label
	$(LABEL_BIN)/python -m pytest tests/apps/label tests/data tests/data_prep/test_dicom.py \
		tests/data_prep/test_dicom_labels.py tests/inferers/test_predictor.py tests/cli/test_predict.py \
		tests/cli/test_predict_dicom.py tests/cli/test_predict_resumed.py

lint: $(INSTALLED_DEV) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED_DEV) ## check types
	$(BIN)/mypy

format: $(INSTALLED_DEV) ## mend style and format where that can be done safely
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and .venv-label, caches and what the demo wrote
	rm -rf $(VENV) $(LABEL_VENV) build dist *.egg-info demo_output ci_artefacts .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): $(PACKAGING)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: $(PYTHON) is missing or older than 3.10; name another: make PYTHON=python3.11" >&2; exit 2; }
	@echo "installing into $(VENV): a minute, more where torch brings CUDA"
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(TORCH) --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP_INSTALL) $(TORCH) --editable '.[dev,mlflow,onnx,pages,ray]'
	@touch $@

$(INSTALLED_LABEL): $(PACKAGING) constraints-label.txt
	@echo "installing into $(LABEL_VENV): some minutes, more where torch brings CUDA"
	$(PYTHON) -m venv $(LABEL_VENV)
	$(PIP_INSTALL_LABEL) $(TORCH) setuptools wheel
	$(PIP_INSTALL_LABEL) --editable '.[label,label-dev]'
	@touch $@
