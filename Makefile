# make demo          set up, then train a small model with GRPO on an ORS server and write a page about it
# make test          set up, then run the tests, with the versions of constraints/locked.txt
# make test-lowest   … with the lowest versions that are declared
# make test-latest   … with the newest versions there are
# make test-vllm     … with those that install beside vLLM
# make test-inspect  … with Inspect, which no other test needs, in an environment of its own
# make test-nightly  … those tests that take minutes
# make faults        break calls and groups many times, and count what ran twice, was lost or was left behind
# make bench         how many times faster than what it stands beside: one table; ARGS=--long takes all sizes
# make hostile       try every door with what models, servers, clients and endpoints may send
# make coverage      the tests of make test, and which lines they leave out
# make test-network  … through nginx, haproxy, caddy, varnish and squid, those that are installed
# make test-cgroups  … of sandboxes, as root, below control groups that systemd delegates
# make check         set up, then lint, check the format, the import layers, the types, the workflows and docs/
# make docs          make a site of docs/, in docs/_build/html
# make docs-links    … and try every link that leads out of it
# make wheel-test    build the wheel, and try it with each extra alone in a fresh environment
# make release       build wheel and sdist into dist/, and check their contents, metadata and version
# make readme-test   run README's commands in order, from an empty environment
# make lock          compile constraints/ again; ARGS=--upgrade moves them to the newest versions
#
# PYTHON=python3.12  another interpreter   VENV=…  another environment   ARGS="…"  more arguments for the command
# JOBS=4             processes that the tests run in; many tests wait
# TORCH="torch==…"   the torch to install where the choice below is not yours

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 4
TORCH ?=
EXTRAS ?= all,dev
CONSTRAINTS ?= constraints/locked.txt
CPU_TORCH := torch==2.13.0+cpu
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
SITE := $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
INSTALL := $(PIP) install $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: demo test coverage test-nightly faults bench hostile test-network test-cgroups test-lowest test-latest test-vllm test-inspect inspect check docs docs-links release wheel-test readme-test lock format system clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -24

demo: $(VENV)/.demo
	$(BIN)/python examples/train_grpo.py $(ARGS)

test: $(VENV)/.dev system
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder $(ARGS)

coverage: $(VENV)/.dev system
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder --cov --cov-report=term:skip-covered $(ARGS)

test-nightly: $(VENV)/.dev system
	$(BIN)/python -m pytest tests/nightly $(ARGS)

faults: $(VENV)/.dev system
	$(BIN)/python -m tests.faults $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/all.py $(ARGS)

hostile: $(VENV)/.dev system
	$(BIN)/python -m tests.hostile $(ARGS)

test-network: $(VENV)/.dev
	$(BIN)/python -m pytest tests/network $(ARGS)

test-cgroups: $(VENV)/.dev system
	systemd-run --quiet --scope -p Delegate=yes $(BIN)/python -m pytest tests/cgroups tests/sandbox $(ARGS)

test-lowest:
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints/lowest.txt EXTRAS=all,test

test-latest:
	$(MAKE) test VENV=.venv-latest CONSTRAINTS=

test-vllm:
	$(MAKE) test VENV=.venv-vllm CONSTRAINTS=constraints/vllm.txt EXTRAS=all,test

test-inspect:
	$(MAKE) inspect VENV=.venv-inspect CONSTRAINTS=constraints/inspect.txt

inspect: $(VENV)/.inspect
	$(BIN)/mypy integrations/ors_gym_inspect
	$(BIN)/python -m pytest tests/inspect -W "ignore:Unclosed <MemoryObject:ResourceWarning" $(ARGS) # Inspect leaves those

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/zizmor --offline --quiet --strict-collection .github/workflows
	$(SITE)

docs: $(VENV)/.dev
	$(SITE)
	@echo "Look at it: file://$(CURDIR)/docs/_build/html/index.html"

docs-links: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b linkcheck docs docs/_build/links

wheel-test: $(VENV)/.dev
	$(BIN)/python .ci/wheel_test.py $(ARGS)

release: $(VENV)/.dev
	rm -rf dist
	$(BIN)/uv build -q --python $(BIN)/python --out-dir dist
	$(BIN)/uv tool run -q twine check --strict dist/*
	$(BIN)/python .ci/check_release.py dist

readme-test: $(VENV)/.dev
	$(BIN)/python .ci/readme_test.py

lock: $(VENV)/.dev
	BIN=$(BIN) .ci/lock $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Programs that some tests need and no Python package brings; those tests are skipped without them.
system:
	@.ci/system-packages

clean:
	rm -rf $(VENV) .venv-* build dist docs/_build runs .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.demo: $(VENV)/.torch pyproject.toml $(CONSTRAINTS)
	@echo "Installing ors-gym and what the demo needs into $(VENV) …"
	$(INSTALL) -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml $(CONSTRAINTS)
	@echo "Installing ors-gym and what its tests need into $(VENV) …"
	$(INSTALL) -e ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.inspect: pyproject.toml constraints/inspect.txt
	@test -x $(BIN)/python || { echo "Making the environment $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing ors-gym and Inspect into $(VENV) …"
	$(INSTALL) -e ".[inspect,server]" hypothesis mypy pytest pytest-timeout pytest-xdist
	@touch $@

# A machine with a GPU, or one that is not Linux, gets the default build. A Linux machine without one gets the CPU
# build, from the package sources that pip knows or from PyTorch's own, which uv knows; never gigabytes of CUDA.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ors-gym needs Python 3.11 or newer; this is " \
		+ sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || { echo "Making the environment $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch …"
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then :; \
	elif [ -n "$(TORCH)" ]; then $(PIP) install "$(TORCH)"; \
	elif [ "$$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1; then $(PIP) install torch; \
	elif $(PIP) install "$(CPU_TORCH)" 2>/dev/null; then :; \
	elif $(PIP) install uv && $(BIN)/uv pip install -q --python $(BIN)/python torch --torch-backend=cpu; then :; \
	else echo "No CPU build of torch was found. Install one into $(VENV) yourself, or: make TORCH=torch …" >&2; exit 1; fi
	@touch $@
