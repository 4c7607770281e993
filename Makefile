# `make help` explains. Everything runs in .venv, which is made from requirements.lock the first time it is needed.
# ARGS="..." is passed on to the program that a target starts. WORKERS test processes run side by side: they wait for
# brokers and timeouts for half of their time: four keep two cores busy (with three a quarter was idle), in 8 GB.

ARGS ?=
WORKERS ?= 4
BIN := .venv/bin

# Compiled imports are kept: without them every process of the suite and the demo compiles torch anew, ten seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test lint format lock real-run memory-run faults faults-quick histories delivery-cost quality report docs docs-serve clean release matrix reference check

help:
	@echo "make demo        train, calibrate and stream recorded OpenStack logs on this machine, alerts shown (Ctrl-C ends it)"
	@echo "make check       lint, types, and the tests that need no broker and few seconds: three minutes on two cores"
	@echo "make test        lint, then every test with coverage; a real Kafka too, where Java and Maven are installed"
	@echo "make lint        ruff, mypy and the import directions"
	@echo "make format      let ruff format the code and mend what it can"
	@echo "make lock        resolve the versions in requirements.lock and requirements-uv.lock anew"
	@echo "make real-run    train, calibrate and stream real failures through a real Kafka; figures of the report"
	@echo "make memory-run  twenty minutes of simulated load; the daemon's memory over time"
	@echo "make faults      kill, stop, cut off and restart daemons and brokers for hours; all must come out exactly once"
	@echo "make faults-quick  the same in minutes: the thirteen cases of the delivery design (part of make test)"
	@echo "make histories   a million simulated histories of a partition; ARGS='--histories N' or '--seed N' to see one again"
	@echo "make delivery-cost  throughput beside at-least-once, bytes of state, time of a restart"
	@echo "make quality     detection quality by a fixed protocol: three seeds, ablations, one table (about an hour on two cores)"
	@echo "make report      docs/technical-report.md and its figures, from the results of make quality"
	@echo "make release     archives, notes, bill of materials and checksums in dist/; VERSION=X.Y.Z tags, nothing is ever pushed"
	@echo "make matrix      the fast tests with Python 3.11 to 3.14; writes docs/reports/python-matrix.md"
	@echo "make docs        the documentation as a site in build/site; any dead link ends it (make docs-serve: shown while you write)"
	@echo "make reference   docs/reference: settings, metrics, log events, alert fields and more, generated from the code"
	@echo "make clean       remove caches and build output (rm -rf .venv to set up anew)"
	@echo "Options: ARGS='...' for the program started, WORKERS=N test processes, PYTHON=/path/to/python3 for the setup"

venv: .venv/.ready

.venv/.ready: requirements.lock requirements-uv.lock pyproject.toml bootstrap.sh
	@./bootstrap.sh

# exec: no shell between make and the program, so that Ctrl-C reaches it and make waits for its clean end.
demo: .venv/.ready
	@exec $(BIN)/loggpt-stream demo $(ARGS)

real-run: .venv/.ready
	@exec $(BIN)/python -m benchmarks.real_run $(ARGS)

memory-run: .venv/.ready
	@exec $(BIN)/python -m benchmarks.memory_run $(ARGS)

faults: .venv/.ready
	@exec $(BIN)/python -m faults.run $(ARGS)

faults-quick: export OMP_NUM_THREADS ?= 1
faults-quick: .venv/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=25 tests/faults/test_cases_*.py $(ARGS)

histories: .venv/.ready
	@exec $(BIN)/python -m faults.simulation $(or $(ARGS),--histories 1000000)

delivery-cost: export OMP_NUM_THREADS ?= 1
delivery-cost: .venv/.ready
	$(BIN)/python -m benchmarks.delivery_cost $(ARGS)

quality: .venv/.ready
	$(BIN)/python -m benchmarks.quality $(ARGS)

report: .venv/.ready
	$(BIN)/python -m benchmarks.technical_report $(ARGS)

docs docs-serve: export NO_MKDOCS_2_WARNING = 1 # about its end of life: decision 0001 says what then
docs: .venv/.ready
	$(BIN)/python -m mkdocs build --strict $(ARGS)

docs-serve: .venv/.ready
	@exec $(BIN)/python -m mkdocs serve --strict $(ARGS)

reference: .venv/.ready
	@exec $(BIN)/python -m scripts.reference

# What to run while you work. -n 2: without brokers nothing waits, and two processes keep two cores busy.
check: export OMP_NUM_THREADS ?= 1
check: export HF_HUB_OFFLINE = 1
check: .venv/.ready
	@began=$$(date +%s) && $(MAKE) --no-print-directory lint \
		&& $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not kafka and not slow" $(ARGS) \
		&& echo "make check took $$(( $$(date +%s) - began )) s"

# One thread for each process: the test processes already fill the cores. Nothing may ask a model hub for anything.
test: export OMP_NUM_THREADS ?= 1
test: export HF_HUB_OFFLINE = 1
# Each test has its own time limit; this one ends test processes that hang between two tests.
# --foreground: Ctrl-C reaches the tests.
test: lint
	timeout --foreground --kill-after=30 2400 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90 $(ARGS)

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_import_directions.py

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

LOCK := pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade
lock:
	@uv --version || { echo "make lock needs uv on PATH (pip install uv)" >&2; exit 1; }
	uv $(LOCK) --custom-compile-command "make lock" --extra dev -o requirements.lock pyproject.toml
	echo uv | uv $(LOCK) --custom-compile-command "make lock" --no-annotate -o requirements-uv.lock -

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

release: .venv/.ready
	@exec $(BIN)/python scripts/release.py $(if $(VERSION),--version $(VERSION))

matrix: export OMP_NUM_THREADS ?= 1
matrix: export HF_HUB_OFFLINE = 1
matrix: .venv/.ready
	@exec $(BIN)/python scripts/python_matrix.py $(ARGS)
