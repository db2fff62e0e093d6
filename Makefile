# The house's tasks. Everything runs in .venv, made from the lock file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A worker that has no more tests takes half of those that another has left.
PYTEST := $(BIN)/python -m pytest -q -n auto --dist worksteal --durations=10

.PHONY: train test test-slow test-all lint lock clean

train: $(VENV)/installed
	$(BIN)/botnet train

test: $(VENV)/installed-dev lint
	$(PYTEST)

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow

# Both at once take less time than one after the other.
test-all: $(VENV)/installed-dev lint
	$(PYTEST) -m "slow or not slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The lock file constrains what pip chooses; what a target does not need is not installed.
$(VENV)/installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@ $(VENV)/installed

# Write requirements.lock anew from what an empty environment gets today.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet '.[dev]' 'orbax-checkpoint==0.11.36'
	.venv-lock/bin/python scripts/write_lock.py > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) build dist
