# make train    train PQN on Space Invaders with a laptop's budget; ALGORITHM=dqn trains Double DQN
# make test     everything that a change must pass
# make faults   plants one-line faults, each of which a test must notice
# make install  the environment that both stand on; costs nothing when it is up to date

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TASK ?= dqn
ALGORITHM ?= pqn_laptop
ROUNDS ?= 3
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test faults install lint bench clean

train: install
	$(BIN)/q2pi train $(ALGORITHM)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist worksteal

faults: $(VENV)/.test
	$(BIN)/python tests/faults/run.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable .
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(INSTALL) --editable '.[test]'
	touch $@


# The peer lives in an environment of its own, made for the benchmark alone.
bench: $(VENV)/.installed $(VENV)-peers/.installed
	$(BIN)/python benchmarks/training_speed.py --task $(TASK) --rounds $(ROUNDS) --peer-python $(VENV)-peers/bin/python

$(VENV)-peers/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-peers build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
