# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11+ and make are all that they need, and a C
# compiler for the second. `make help` lists the others.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# Of pyproject.toml; what checks more than `make test` asks for more at once, since each installation takes its time.
EXTRAS ?= cpu,export,test
COMMA := ,
# Which tests `make test` runs: without the slow ones; the CI runs them with it, as one run.
TESTS ?= not slow
# Processes that share the tests.
TEST_WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal
# Not compiled: what is imported is compiled then, which is a small part of PyTorch and the others. It has to be kept, or
# each of the hundreds of processes that tests start compiles it anew: 4.4 s of processor time for a query, not 2.0.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/pip install -q --no-compile --config-settings editable_mode=strict -e
SOURCES := $(sort $(shell find ctxdeploy export runtime index -name '*.py') $(filter-out %.pyc,$(wildcard ctxdeploy/models/*/*)))

.PHONY: help demo test test-all test-rest test-long test-lowest lint style types imports tests-fast docs pages dist test-deploy metrics bench clean FORCE

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade 'pip>=24' 'setuptools>=77' packaging

# The editable install is strict (a tree of links), because mypy and import-linter cannot follow the lenient one. A tree
# of links is made anew when a file comes or goes, so this list of them is written only when it changes.
$(VENV)/sources: $(BIN)/python FORCE
	@echo '$(SOURCES)' | cmp -s - $@ || echo '$(SOURCES)' > $@

# The oldest versions, in an environment of their own. They need nothing of the other environment while they are
# installed, so that under -j it is done beside it: pip keeps one processor busy.
$(VENV)/lowest/made-from: pyproject.toml $(BIN)/python
	$(BIN)/python tools/check_lowest.py --install $(VENV)/lowest

# What `deploy` needs cannot be had everywhere; the others are tested without it then.
$(VENV)/installed: pyproject.toml $(VENV)/sources
	$(INSTALL) '.[$(EXTRAS)]' $(if $(findstring deploy,$(EXTRAS)),|| $(INSTALL) '.[$(subst $(COMMA)deploy,,$(EXTRAS))]')
	@touch $@

# The demo needs no PyTorch, which is most of what `make test` downloads.
$(VENV)/demo-installed: pyproject.toml $(VENV)/sources
	$(INSTALL) '.[cpu,demo]'
	@touch $@

# TensorRT-RTX builds engines on any x86-64 Linux. Its tests skip where it cannot be installed, which is not a failure.
$(VENV)/rtx: $(VENV)/installed
	case "$$(uname -sm)" in 'Linux x86_64') $(BIN)/pip install -q 'tensorrt-rtx>=1.7' 'cuda-bindings>=12.8' || true;; esac
	@touch $@

$(VENV)/docs-installed: $(VENV)/installed
	$(if $(findstring docs,$(EXTRAS)),,$(INSTALL) '.[$(EXTRAS),docs]')
	@touch $@

demo: $(VENV)/demo-installed  ## index sample photos, query them, write demo/demo.html
	$(BIN)/ctxdeploy demo -o demo
	@echo "the command is $(VENV)/bin/ctxdeploy here;  . $(VENV)/bin/activate  puts it on the path"

style: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	cd $(VENV) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p ctxdeploy

# From $(VENV), because in the root of the checkout the linter would find ctxdeploy/ without its rooms.
imports: $(VENV)/installed
	cd $(VENV) && $(BIN)/lint-imports --no-cache --no-logo $(CURDIR)/pyproject.toml

lint: style types imports  ## style, types and who may import what

# Once, not by each of the workers and the processes that they start, most of which begin before another one has kept
# what it compiled, and some of which are killed meanwhile: the loops of the index, 41 s of processor time and 1.5 where
# they are kept, and the tests with their asserts, 24 s and 8.
$(VENV)/loops: $(VENV)/installed $(wildcard index/kernels/*.py)
	-$(BIN)/ctxdeploy warm-up
	@touch $@

$(VENV)/collected: $(VENV)/rtx
	@$(BIN)/pytest --collect-only -q > /dev/null || true
	@touch $@

tests-fast: $(VENV)/rtx $(VENV)/loops $(VENV)/collected
	CTXDEPLOY_HYPOTHESIS=fast $(PYTEST) -m '$(TESTS)'

# Style and types are checked beside the tests, not before them.
test: $(VENV)/rtx  ## lint, and the tests of every room, in ten to fifteen minutes on two cores
	@$(MAKE) --no-print-directory -k -j 4 tests-fast style types imports

# The slow tests, which `make test` leaves out.
test-rest: $(VENV)/rtx
	CTXDEPLOY_HYPOTHESIS=fast $(PYTEST) -m 'slow and not long'

# What has no place in the 25 minutes of the whole check: the same at length, and properties with more examples.
test-long: $(VENV)/rtx  ## before a release: tests that try at length what others try briefly
	CTXDEPLOY_HYPOTHESIS=long $(PYTEST) -m 'long or hypothesis'

# In an environment of its own. Where the package index cannot be reached it is skipped, not failed.
test-lowest: export OMP_WAIT_POLICY := passive
test-lowest: $(VENV)/installed $(VENV)/lowest/made-from  ## the main job with the oldest version of every library that pyproject.toml allows
	$(BIN)/python tools/check_lowest.py $(VENV)/lowest

# Helm's own library takes 75 MB, so its tests are apart. Where it cannot be installed they are skipped, not failed.
test-deploy: $(VENV)/installed  ## what can be checked of the Containerfile and of deploy/ without starting them
	$(if $(findstring deploy,$(EXTRAS)),,$(INSTALL) '.[$(EXTRAS),deploy]' || true)
	$(PYTEST) tests/deploy

test-all:  ## everything but test-long
	@$(MAKE) --no-print-directory -k -j 2 -O test test-lowest TESTS='not long'
	@$(MAKE) --no-print-directory test-deploy

pages: $(VENV)/installed  ## write the generated pages of docs/ anew
	$(BIN)/python tools/pages.py

docs: $(VENV)/docs-installed  ## build the site in site/; any warning is an error
	$(BIN)/python tools/pages.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: $(BIN)/python  ## build wheel and sdist in dist/ and run the main job from the wheel; nothing is published
	$(BIN)/pip install -q build
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tools/check_dist.py dist

metrics:  ## numbers of the code: files, lines, circles, imports, carriers
	@$(PYTHON) tools/metrics.py

# Measures again what docs/performance.md says: DATA=minibench TRAINING=trainphotos LANDMARKS=landmarks make bench
bench: $(VENV)/installed  ## measure again what docs/performance.md says
	$(INSTALL) '.[bench]'
	PYTHON=$(BIN)/python benchmarks/all.sh

clean:  ## remove what make made
	rm -rf $(VENV) build demo dist site *.egg-info
