# Two commands for people: `make demo` and `make test`. Everything they need goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
KERNELS_RUN_IN := $(addprefix tests/,kernels planning dispatching migrating forecasting simulating controlling plugins)
PINS := build/venv-pins
PINS_CACHE := $(CURDIR)/build/pins-cache
DEMO_LOAD := src/equipoise/data/gpt-oss-20b-decode.npz
DEMO_OUT := build/placement.json

.PHONY: demo test check docs bench bench-peers bench-unseen bench-dispatch bench-moves bench-control bench-score bench-start bench-proofs bench-engines test-install bench-report test-machines test-browser test-engines test-pins test-python test-oldest fuzz clean

demo: $(VENV)/.ready ## the main job on the load that ships
	@mkdir -p $(dir $(DEMO_OUT))
	@$(BIN)/equipoise inspect $(DEMO_LOAD)
	@$(BIN)/equipoise plan $(DEMO_LOAD) --ranks 8 --slots 40 --out $(DEMO_OUT)

test: $(VENV)/.ready-dev ## the whole suite on two cores, once kernels are compiled; beside it the fast part of what runs kernels, interpreted
	@mkdir -p build
	@NUMBA_DISABLE_JIT=1 $(BIN)/pytest -q -m "not compiled and not machines and not engines and not browser" $(KERNELS_RUN_IN) > build/interpreted.log 2>&1 & beside=$$!; \
	$(BIN)/equipoise warmup; \
	$(BIN)/pytest -q -n 2 --dist worksteal; compiled=$$?; \
	wait $$beside; interpreted=$$?; \
	echo "interpreted:"; cat build/interpreted.log; \
	exit $$((compiled + interpreted))

check: $(VENV)/.ready-dev ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typed/user.py
	$(BIN)/lint-imports

docs: $(VENV)/.ready-docs ## the site, built strictly, into build/site; nothing in it is fetched when it is read
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@! grep -rlE '<(script|link|img|iframe)[^>]+(src|href)="?https?:' build/site --include=*.html

bench: $(VENV)/.ready-dev ## speed and balance from the same calls, on the recorded loads in EQUIPOISE_LOADS
	$(BIN)/python benchmarks/main_job.py

bench-peers: $(VENV)/.ready-dev ## the same loads planned by the peers' own wheels as well; ARGS=--quick for a smoke run
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-unseen: $(VENV)/.ready-dev ## what plans reach on windows they have not seen, FlashLB beside ours; ARGS=--others, --quick
	$(BIN)/python -m benchmarks.out_of_sample $(ARGS)

bench-dispatch: $(VENV)/.ready-dev ## batches on plans that do not know them: dispatch, plans for it, replicas for the batch; ARGS=--quick
	$(BIN)/python -m benchmarks.dispatching $(ARGS)

bench-moves: $(VENV)/.ready-dev ## plans from the placement before: balance against moves, relabelling, schedules; ARGS=--others, --quick
	$(BIN)/python -m benchmarks.rebalancing $(ARGS)

bench-control: $(VENV)/.ready-dev ## the controller on stationary and on changing load; ARGS=--quick
	$(BIN)/python -m benchmarks.controlling $(ARGS)

bench-engines: $(VENV)/.ready-dev ## an SGLang dump of 206 MB read and planned: seconds and memory; ARGS=--quick
	$(BIN)/python -m benchmarks.engines $(ARGS)

bench-score: $(VENV)/.ready-dev ## what judging a program costs, and the worked case on GLM; ARGS=--quick
	$(BIN)/python -m benchmarks.scoring $(ARGS)

bench-report: $(VENV)/.ready-dev ## a report: seconds, bytes, and how soon chromium has drawn it; ARGS=--quick
	$(BIN)/python -m benchmarks.reports $(ARGS)

bench-start: $(VENV)/.ready-dev ## what imports and help take before any work is done; ARGS=--quick
	$(BIN)/python -m benchmarks.starting $(ARGS)

bench-proofs: $(VENV)/.ready-dev ## plans and bounds beside an exact solver's, on five real layers a shape
	$(BIN)/python benchmarks/proofs.py

test-install: $(VENV)/.ready-dev ## wheel and sdist as strangers get them: a clean environment, the main job, types, pipx
	$(BIN)/python tests/installing.py

test-machines: $(VENV)/.ready-dev ## that kernels compiled anew, and for a generic CPU, give the same; some four minutes
	$(BIN)/pytest -q -n 2 -m machines

test-browser: $(VENV)/.ready-dev ## reports opened in chromium, which .ci/browser installs on Debian where it is missing
	@.ci/browser
	$(BIN)/pytest -q -m browser tests/reporting

test-engines: $(VENV)/.ready-dev ## against the engines' own modules, from their wheels in EQUIPOISE_PEERS_CACHE (0.8 GB in all)
	$(BIN)/equipoise warmup
	$(BIN)/pytest -q -rA -m engines tests/engines tests/test_example_evaluators.py

test-python: ## the suite on another Python, without torch: make test-python PYTHON=python3.13
	@mkdir -p build
	grep -v '^torch==' $(LOCK) > build/other.lock
	$(PYTHON) -m venv --clear build/venv-python
	build/venv-python/bin/python -m pip install --quiet --requirement build/other.lock --editable .
	build/venv-python/bin/pytest -q

test-pins: $(PINS)/.ready ## the suite with the numba that vLLM 0.33 pins (SGLang 0.5.23: 0.65.1), and the numpy that goes with it; ARGS=tests/kernels
	NUMBA_CACHE_DIR=$(PINS_CACHE) $(PINS)/bin/pytest -q -n 2 --dist worksteal $(ARGS)

test-oldest: ## the suite with the oldest dependencies, without torch
	$(PYTHON) -m venv --clear build/venv-oldest
	build/venv-oldest/bin/python -m pip install --quiet --requirement requirements-oldest.lock --editable .
	build/venv-oldest/bin/pytest -q

fuzz: $(VENV)/.ready-dev ## 100,000 mutated files to every reader on two cores; ARGS="--seed N" runs one case again
	$(BIN)/python tests/fuzzing.py --processes 2 $(or $(ARGS),--cases 100000)

clean:
	rm -rf $(VENV) build dist

# The engines' numba, in an environment of its own, with its kernels compiled into a folder of their own.
$(PINS)/.ready: $(LOCK) pyproject.toml
	@mkdir -p build
	grep -v '^numba==\|^llvmlite==\|^numpy==' $(LOCK) > build/pins.lock
	echo 'numba==0.65.0' >> build/pins.lock
	$(PYTHON) -m venv --clear $(PINS)
	$(PINS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement build/pins.lock --editable .
	NUMBA_CACHE_DIR=$(PINS_CACHE) $(PINS)/bin/equipoise warmup
	@touch $@

# One lock file serves both: people get what planning needs, developers the rest as well.
$(VENV)/.ready: $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(LOCK) --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(LOCK)
	@touch $@

# What the site needs besides: only those who build it wait for it.
$(VENV)/.ready-docs: $(VENV)/.ready-dev requirements-docs.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(LOCK) --requirement requirements-docs.lock
	@touch $@
