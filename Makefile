# Installation, demo, tests and lint. PYTHON=python3.12 selects the interpreter, VENV=DIR
# the folder of the virtual environment, which is only updated if necessary. The tests run
# in at most four processes; PYTEST_ARGS replaces these options.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CHECKED := espnet_gq distributions egs2 tests benchmarks experiments setup.py
CSRC := espnet_gq/native/csrc espnet_gq/device/csrc
SOURCES := setup.py pyproject.toml $(wildcard $(CSRC:=/*.*) $(CSRC:=/*/*))

# WHEELS=DIR installs from a folder of wheels without network (benchmarks/gpu/README.md).
ifdef WHEELS
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELS))
endif
GPU_ARGS ?= --json gpu_check.json

.PHONY: help venv demo test families gpu-check device-wheel lint clean

help:
	@echo "make venv   install into $(VENV) with $(PYTHON)"
	@echo "make demo   float Conformer -> 5-bit GQ -> packed -> one table (DATA=folder)"
	@echo "make test   run the tests"
	@echo "make families  test all of ESPnet's families, with the packages that some need"
	@echo "make gpu-check  run the checks that need a GPU, in 8 minutes (WHEELS=folder)"
	@echo "make device-wheel  build espnet-gq-device into dist/ (TARGET=aarch64)"
	@echo "make lint   black, isort, flake8, mypy, shellcheck"

venv: $(STAMP)

$(STAMP): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    || { echo "espnet-gq needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.11 ..."; exit 1; }
	test -e "$(STAMP)" || rm -rf "$(VENV)"
	test -x "$(BIN)/python" || $(PYTHON) -m venv "$(VENV)"
	@# 25.1 introduced --group; 26.3 rejects the metadata of ci_sdr (ESPnet 202511).
	$(BIN)/python -m pip install -q --disable-pip-version-check 'pip>=25.1,<26.3'
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[test]'
	touch "$(STAMP)"

demo: venv
	PATH="$(BIN):$$PATH" bash egs2/fsdd_gq/asr1/demo.sh

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS) tests

families: venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[families]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS) tests/espnet/families

gpu-check: venv
	$(BIN)/python -m benchmarks.gpu.check $(GPU_ARGS)

device-wheel: venv
	$(BIN)/python distributions/device/build.py --output dist $(if $(TARGET),--target $(TARGET))

lint: venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --group lint
	$(BIN)/python -m black --check -q $(CHECKED)
	$(BIN)/python -m isort --check -q $(CHECKED)
	$(BIN)/python -m flake8 $(CHECKED)
	$(BIN)/python -m mypy
	$(BIN)/shellcheck -x -P SCRIPTDIR $$(git ls-files '*.sh') .ci/run

clean:
	rm -rf "$(VENV)" build *.egg-info
