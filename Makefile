# make demo: watch a job live its whole life.  make test: everything that must hold.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BENCH  := .bench-venv
export UV_FIND_LINKS := $(PIP_FIND_LINKS)

.PHONY: demo test lint fuzz storms bench bench-deps bench-ledger bench-links bench-postgresql focus clean
.DEFAULT_GOAL := help

help:
	@echo "make .venv       install into .venv (uv or pip, whichever is there)"
	@echo "make demo        a whole job on this machine, with a machine killed in the middle"
	@echo "make test        lint, types, layering and every test"
	@echo "make lint        ruff, mypy, import-linter"
	@echo "make fuzz        the HTTP API against its own OpenAPI page: EXAMPLES=500 a route, SEED=1"
	@echo "make storms      whole markets in virtual time, everything going wrong: MINUTES=60, FROM=1 a seed"
	@echo "make bench       the benchmarks of docs/BENCHMARKS.md that take minutes"
	@echo "make bench-deps  torchft and hivemind, to compare with"
	@echo "make focus       the export of bills against focus-validator (needs Python 3.12: FOCUS_PYTHON=python3.12)"
	@echo "make bench-links training over slow cables (root)"

.venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(VENV) && \
	  uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[node,dev]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[node,dev]'; \
	fi
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/torg demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 3 --no-loadscope-reorder

# A long run of what the suite does with a few examples; another SEED sends other things.
EXAMPLES ?= 500
SEED ?= 1
fuzz: $(STAMP)
	EXAMPLES=$(EXAMPLES) SEED=$(SEED) $(BIN)/python -m pytest tests/api/test_fuzz.py --hypothesis-seed=$(SEED) --timeout=0

# Other seeds than the suite's, one story after another; one that fails prints how to run it again.
MINUTES ?= 60
storms: $(STAMP)
	$(BIN)/python -m tests.storms --minutes $(MINUTES) $(if $(FROM),--from $(FROM))

# torchft and hivemind, for the comparisons only, in an environment of their own.
bench-deps: $(STAMP) $(BENCH)/.installed

$(BENCH)/.installed: benchmarks/requirements.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(BENCH) && \
	  uv pip install --quiet --python $(BENCH)/bin/python -r benchmarks/requirements.txt; \
	else \
	  $(PYTHON) -m venv $(BENCH) && $(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt; \
	fi
	@touch $@

# Needs root: PostgreSQL of the distribution, for the comparison only; benchmarks/ledger.py starts and ends its own server.
bench-postgresql:
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || apt-get install -y --no-install-recommends postgresql

bench-ledger: $(STAMP) bench-postgresql
	@$(BIN)/python -m benchmarks.ledger

# Needs root, and says so: network namespaces joined by cables of 20 and 2 Mbit/s.
bench-links: $(STAMP)
	@$(BIN)/python -m benchmarks.links --system torch_ddp diloco streaming_diloco torchft_diloco torchft_streaming hivemind hivemind_delayed

bench: $(STAMP)
	@for name in command_line codecs one_worker synchronise faults; do $(BIN)/python -m benchmarks.$$name --json; done

# An environment of its own, of Python 3.12; CI makes it where it finds one.
FOCUS_PYTHON ?= python3.12
FOCUS        := .focus-venv
focus: $(STAMP) $(FOCUS)/.installed
	@$(BIN)/python -m benchmarks.focus --python $(FOCUS)/bin/python

$(FOCUS)/.installed:
	@$(FOCUS_PYTHON) -m venv $(FOCUS)
	@$(FOCUS)/bin/python -m pip install --quiet --disable-pip-version-check 'focus-validator==2.2.1' 'pyarrow<20'
	@touch $@

clean:
	rm -rf $(VENV) $(FOCUS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
