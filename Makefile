# Everything goes through these targets; `make` alone explains them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo
# one more than cores, because devices of tests wait for each other; in order, because the first folders take longest
WORKERS := --numprocesses 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo fleet brokers check format dist wheel-check test test-brokers pythons bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with the package and all that demo and tests need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,arrow,avro,camera,images,kafka,metrics,mqtt,parquet,plots,vision]'
	touch $@

demo: setup  ## DDL and ScaDLES on four devices: a table and a picture in runs/demo
	rm -rf $(DEMO)
	$(BIN)/scadles train examples/digits.yaml --local 4 --set method=ddl --out $(DEMO)/ddl
	$(BIN)/scadles train examples/digits.yaml --local 4 --set method=scadles --out $(DEMO)/scadles
	$(BIN)/scadles compare $(DEMO)/ddl $(DEMO)/scadles --out $(DEMO)/compare.png

fleet: setup  ## four devices that come and go through a hub: some lines and a picture in runs/fleet
	$(BIN)/python tools/fleet.py --out runs/fleet

brokers: setup  ## Kafka and Mosquitto on loopback to play with, until Ctrl-C
	$(BIN)/python -m scadles.testing.brokers

check: setup dist  ## ruff, mypy, the import rules, and what wheel and sdist hold
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## let ruff put everything into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: setup  ## wheel and sdist in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python tools/wheel.py

wheel-check: dist  ## install the wheel without extras into an empty environment, and run it there
	$(BIN)/python tools/wheel.py --install

test: setup  ## all tests that need no broker, and how much of src they run
	$(BIN)/pytest $(WORKERS) --ignore tests/external --cov --cov-report term --cov-fail-under 95

test-brokers: setup  ## tests with real brokers and routers, which are installed where that is possible
	tests/external/install_brokers.sh
	$(BIN)/pytest $(WORKERS) tests/external

pythons: setup  ## compile and test with the other Pythons on this machine, as far as that needs no torch
	$(BIN)/python tools/pythons.py

bench: setup  ## every benchmark; each prints ratios measured in one run
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:  ## remove the environment, caches and runs
	rm -rf $(VENV) .venv-* runs dist .pytest_cache .coverage* .mypy_cache .ruff_cache .hypothesis .import_linter_cache
