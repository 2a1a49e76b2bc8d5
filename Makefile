# Set-up, demonstration and tests. The only requirements are make and Python 3.11 or newer.
#
#   make run                  the digits recipe from end to end
#   make test                 lint, types, tests and the ratios of costs
#   make fuzz                 100,000 damaged files for all readers; FUZZ_ARGS="--seconds 60" for fewer
#   make kills                50 commands killed and run again: do their bytes differ? KILLS_ARGS="--kills 200" for more
#   make docs                 the tables and pictures of README.md and docs/, from the committed records, and then the
#                             documentation site in build/site; a warning is an error
#   make audit                known faults of all packages that are installed, from the internet (pip-audit)
#   make dist                 the sdist and the wheel in dist/, checked by twine
#   make test ZSKD_TEST_LIMIT=600    seconds after which a test counts as hanging (see tests/limits.py)
#   make cluster              work on a Ray cluster of three nodes on this machine, with kills (installs Ray)
#   make bench                how fast it is on this machine; BENCH_ARGS="--data-dir FOLDER" for MNIST at hand
#   make run PYTHON=python3.13
#   make run TORCH=cpu        which PyTorch a fresh environment gets: cpu, cuda, as-is (what pip finds), or auto: cpu
#                             unless there is a GPU; one that is there and new enough always stays
#   make run PIP_ARGS="--no-index --find-links wheels"    without internet, see docs/installation.md

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
TORCH ?= auto
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(VENV)/constraints.txt
# A PyTorch that is there already stays if it is new enough; a fresh environment gets the pinned one.
APT = DEBIAN_FRONTEND=noninteractive timeout 180 apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=20
APT_CHROMIUM = { $(APT) install -y --no-install-recommends chromium || { $(APT) update \
  && $(APT) install -y --no-install-recommends chromium; }; } > /dev/null 2>&1
CONSTRAIN = $(BIN)/python constraints.py > $(VENV)/constraints.txt

.PHONY: run audit docs dist test fuzz kills lint types tests browser ratios bench cluster clean

run: $(VENV)/.installed
	$(BIN)/zskd run digits

docs: $(VENV)/.installed-docs
	$(BIN)/python studies/make_tables.py
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees -b html . build/site
	@echo "the site begins with build/site/index.html"

dist: $(VENV)/.installed-release
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

test: lint types tests ratios

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# Two workers: one process per core of a small machine; the tests of a file share what they made. Files stay in
# their order, because those with the fewest tests, which come last otherwise, are the longest.
tests: $(VENV)/.installed-dev browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Pages are tested in a real browser where there is one, or where it may be installed.
browser:
	@command -v chromium > /dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
	  && echo "installing Debian's chromium, for the tests of pages" && $(APT_CHROMIUM); } \
	  || echo "no chromium: the tests of pages in a browser are skipped (Debian: apt-get install chromium)"

fuzz: $(VENV)/.installed-dev
	PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ_ARGS)

kills: $(VENV)/.installed-dev
	PYTHONPATH=tests $(BIN)/python -m kills $(KILLS_ARGS)

# One process: costs that are compared must not run side by side.
ratios: $(VENV)/.installed-dev
	$(BIN)/python -m pytest benchmarks --benchmark-columns=min,median,rounds --benchmark-warmup=off

# Asks PyPI, so it is no part of the tests.
audit: $(VENV)/.installed-dev
	$(BIN)/pip-audit --skip-editable

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/resnet20.py

# Not a part of the tests: Ray is 240 MB, and starts some ten processes of its own.
cluster: $(VENV)/.installed-ray
	$(BIN)/python benchmarks/cluster.py

$(VENV)/.installed: pyproject.toml constraints.txt constraints.py install_torch.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python install_torch.py $(TORCH) $(PIP_ARGS)
	$(CONSTRAIN)
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation -e .
	touch $@

# For each task its extra of pyproject.toml: dev, docs, ray, release.
$(VENV)/.installed-%: $(VENV)/.installed
	$(CONSTRAIN)
	$(INSTALL) --no-build-isolation -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist build
