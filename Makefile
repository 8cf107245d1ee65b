# `make demo` and `make test` need nothing set up by hand: each makes the environment in .venv first,
# with uv where it is installed, else with venv and pip. Python 3.10 or later is all they ask for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUTPUT ?= runs/demo
READY := $(VENV)/.ready

.PHONY: demo test test-peers lint format clean

demo: $(READY)
	$(BIN)/ddm demo --output $(DEMO_OUTPUT)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Peers that the examples plug into; they bring packages that nothing else here needs.
test-peers: $(READY)
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -r requirements/pinned.txt -r requirements/peers.txt; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check \
			-r requirements/pinned.txt -r requirements/peers.txt; \
	fi
	$(BIN)/python -m pytest tests/test_examples.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml requirements/pinned.txt
	@if command -v uv >/dev/null 2>&1; then \
		test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
		uv pip install --python $(BIN)/python -r requirements/pinned.txt -e '.[demo,dev]'; \
	else \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --disable-pip-version-check -r requirements/pinned.txt -e '.[demo,dev]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
