# `make help` lists the targets. Every one creates the environment it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-slow endurance wheel-test browser pages check figures digits experiments accelerator bench bench-quick data docs command-pages clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/installed  ## train on digits, measure every layer, predict, certify, report (about 15 s)
	$(BIN)/perturb-nc demo --output results/demo

test: .venv/installed  ## the whole default test suite
	$(BIN)/python -m pytest -q -n auto

test-slow: .venv/installed  ## the checks that take minutes
	$(BIN)/python -m pytest -q -m slow

endurance: .venv/installed  ## kills, full disks, flipped bits, threads, hostile input (long)
	$(BIN)/python -m pytest -q -m slow -n 2 tests/endurance

wheel-test:  ## build wheel and sdist, install the wheel alone, use it from outside (minutes)
	PYTHON=$(PYTHON) tests/packaging/check.sh

browser:  ## Debian's chromium for the tests in a browser, where it is missing and apt may install it
	@command -v chromium >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update \
	&& DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; } \
	|| echo "no chromium: the tests in a browser will be skipped"

pages: .venv/installed browser  ## report and explorer in a browser; screenshots in build/screens (minutes)
	SCREENS=build/screens $(BIN)/python -m pytest -q -m slow tests/show/test_whole_pages.py

check: .venv/installed  ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

experiments: .venv/installed  ## run every experiment (after make data; two hours on 2 cores)
	$(BIN)/python -m experiments.near_collapse_spectrum
	$(BIN)/python -m experiments.depth_calibration
	$(BIN)/python -m experiments.regularization_map
	$(BIN)/python -m experiments.binary_dnc
	$(BIN)/python -m experiments.width_and_decay
	$(BIN)/python -m experiments.low_rank_bias
	$(BIN)/python -m experiments.trained_head
	$(BIN)/python -m experiments.public_resnet
	$(BIN)/python -m experiments.public_networks
	$(BIN)/python -m experiments.depthwise_layerwise
	$(BIN)/python -m experiments.weight_decay
	$(BIN)/python -m experiments.weight_decay_paired
	$(BIN)/python -m experiments.weight_decay_theory
	$(BIN)/python -m experiments.intermediate_collapse
	$(BIN)/python -m experiments.feature_learning
	$(BIN)/python -m experiments.effective_depth
	$(BIN)/python -m experiments.every_layer
	$(BIN)/python -m experiments.equal_width
	$(BIN)/python -m experiments.theories_of_depth
	$(BIN)/python -m experiments.equi_separation
	$(BIN)/python -m experiments.transfer
	$(BIN)/python -m experiments.small_vicinity
	$(BIN)/python -m experiments.cross_entropy

accelerator: .venv/installed  ## what waits for a CUDA device, as far as eight minutes go (docs/accelerator.md)
	$(BIN)/python -m experiments.accelerator $(ARGS)

figures: .venv/installed  ## draw paper_figs/ from the committed results
	@for script in paper_figs/*.py; do $(BIN)/python $$script || exit 1; done

digits: .venv/installed  ## do figures and tables show the digits they did? make digits SINCE=COMMIT
	$(BIN)/python docs/digits.py $(or $(SINCE),HEAD)

bench: .venv/installed  ## time everything against peers and the floor (minutes); writes docs/benchmarks.md
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.page

bench-quick: .venv/installed  ## the same at tiny sizes, in under two minutes; writes build/quick/benchmarks.md
	$(BIN)/python -m benchmarks.page --quick

data: .venv/installed  ## fetch MNIST, Fashion-MNIST, CIFAR-10 and trained networks into the cache
	$(BIN)/python -m perturb_nc.networks.fetch

docs: .venv/installed  ## build the documentation in build/docs, its notebooks run; any warning is an error (minutes)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build -E -W --keep-going -n -q -d build/doctrees -b html docs build/docs
	@echo "open build/docs/index.html"

command-pages: .venv/installed  ## write docs/commands/ from the help of the commands
	$(BIN)/python -c "import runpy, pathlib; runpy.run_path('docs/conf.py')['write_commands'](pathlib.Path('docs/commands'))"

clean:  ## remove the environment, the documentation and what the demo wrote
	rm -rf .venv results build
