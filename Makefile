# Everything below installs what it needs into .venv by itself; run `make help` for the list.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help demo test crash lint format bench proto clean
help:
	@echo "make demo    from nothing to answers: real sentences, searched in an embedded database"
	@echo "make test    the whole test suite"
	@echo "make crash   thousands of killed writers, every storage call failing in every way, random calls: about an hour on"
	@echo "             two cores; VECSTORE_KILLS=N for other than 3000 random kills, VECSTORE_SEED=N for others"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff format the code"
	@echo "make bench   the figures of bench/, printed"
	@echo "make proto   write vecstore/v1 anew from proto/"
	@echo "make clean   remove .venv and what the tools leave behind"

# Two stamps, so that the demo need not wait for the tools of the developers.
$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vecstore needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing vecstore into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[server]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing the engines to compare with into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

demo: $(VENV)/.run
	@$(BIN)/vecstore demo

# Kernels are compiled once before, or each process of the tests would compile them for itself.
test: $(VENV)/.dev
	@$(BIN)/vecstore warmup
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

crash: $(VENV)/.dev
	@VECSTORE_KILLS=$${VECSTORE_KILLS:-3000} VECSTORE_TEST_EFFORT=many $(BIN)/python -m pytest -n auto --dist worksteal -rP \
	  tests/crash tests/faults tests/stateful $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.bench
	@$(BIN)/python -m bench $(ARGS)

proto: $(VENV)/.dev
	@$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. --grpc_python_out=. \
	  proto/vecstore/v1/vecstore.proto

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
