# What can I do? Every target makes the environment it needs.
PYTHON ?= python3
BIN := .venv/bin
SWEEP ?= demo

.DEFAULT_GOAL := help
.PHONY: help demo smoke test test-portable torture test-sweeps test-peers bench bench-all race check format docs plan sweep status report ui clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/ready  ## run the demo sweep and write its report: minutes, offline
	$(BIN)/posweep sweep=demo

smoke: .venv/ready  ## run the smallest sweep there is: does everything work here?
	$(BIN)/posweep sweep=smoke

test: .venv/ready  ## run the tests, and those of numbers once more as another processor would
	$(BIN)/python -m pytest -m "not torture and not whole" -n 2 --dist loadgroup
	$(BIN)/python tests/portable.py default -m "numeric and not torture and not whole" -n 2 --dist loadgroup

test-portable: .venv/ready  ## run all tests as processors without AVX, and with AVX2 and two threads, would
	$(BIN)/python tests/portable.py default -m "not torture and not whole" -n 2 --dist loadgroup
	$(BIN)/python tests/portable.py avx2 -m "not torture and not whole" -n 2 --dist loadgroup

torture: .venv/ready  ## break sweeps in every way there is, and run the other long tests: half an hour, ends with a table
	$(BIN)/python -m pytest -m torture -n 2 --dist loadgroup

test-sweeps: .venv/ready  ## run the documentation's long sweeps as it says: half an hour
	$(BIN)/python -m pytest -m whole

test-peers: .venv-peers/ready  ## compare losses and gradients with TRL, in an environment of its own
	TRL_EXPERIMENTAL_SILENCE=1 .venv-peers/bin/python -m pytest tests/peers

bench: .venv/ready race  ## how fast, beside TRL and beside what the machine can do: half an hour on 2 cores
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/fused.py
	$(BIN)/python benchmarks/limits.py

bench-all: bench  ## all that is measured: the same, how cost grows, TRL's settings, objectives, plans and reports, an hour
	.venv-peers/bin/python benchmarks/race/settings.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/objectives.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/report.py

race: .venv-peers/ready  ## the same sweep by posweep and by loops around TRL, in an environment of its own
	.venv-peers/bin/python benchmarks/race/race.py
	.venv-peers/bin/python benchmarks/race/race.py --trials 36 --turns 1 --against b1

check: .venv/ready  ## format, lint, types, import floors
	$(BIN)/ruff format --check src tests docs benchmarks
	$(BIN)/ruff check src tests docs benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/ready  ## format the code and mend what the linter can
	$(BIN)/ruff format src tests docs benchmarks
	$(BIN)/ruff check --fix src tests docs benchmarks

docs: .venv/ready  ## write docs/methods.md from the objectives, and the numbers and figures of docs/statistics.md
	$(BIN)/python docs/methods.py
	$(BIN)/python docs/statistics.py

plan: .venv/ready  ## what SWEEP=demo would run
	$(BIN)/posweep plan sweep=$(SWEEP)

sweep: .venv/ready  ## run SWEEP=demo
	$(BIN)/posweep sweep=$(SWEEP)

status: .venv/ready  ## what has become of SWEEP=demo
	$(BIN)/posweep status sweep=$(SWEEP)

report: .venv/ready  ## write the report of SWEEP=demo again
	$(BIN)/posweep report sweep=$(SWEEP)

ui: .venv/ready  ## browse trials in MLflow on 127.0.0.1
	$(BIN)/posweep ui

clean:  ## remove outputs and caches (not .venv, not MLflow's records)
	rm -rf outputs dist build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("posweep needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.venv-peers/ready: pyproject.toml constraints.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . 'pytest>=9' 'trl==1.16.*'
	touch $@
