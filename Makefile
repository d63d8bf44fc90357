# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11+ and make are all that they need, and a C
# compiler for the second.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# Processes that the tests are divided among, file by file.
TEST_WORKERS ?= 2
SOURCES := $(shell find ctxdeploy export runtime index -name '*.py') $(wildcard ctxdeploy/models/*/*)

.PHONY: demo test lint bench clean

# The editable install is strict (a tree of links), because mypy cannot follow the lenient one; a tree of links must be
# made anew when a file comes or goes, hence the dependency on the sources.
$(VENV)/installed: pyproject.toml $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade 'pip>=24' 'setuptools>=77'
	$(BIN)/pip install -q --config-settings editable_mode=strict -e '.[cpu,export,test]'
	touch $@

# The demo needs no PyTorch, which is most of what `make test` downloads.
$(VENV)/demo-installed: pyproject.toml $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade 'pip>=24' 'setuptools>=77'
	$(BIN)/pip install -q --config-settings editable_mode=strict -e '.[cpu,demo]'
	touch $@

# TensorRT-RTX builds engines on any x86-64 Linux. Its tests skip where it cannot be installed, which is no failure.
$(VENV)/rtx: $(VENV)/installed
	case "$$(uname -sm)" in 'Linux x86_64') $(BIN)/pip install -q 'tensorrt-rtx>=1.7' 'cuda-bindings>=12.8' || true;; esac
	touch $@

demo: $(VENV)/demo-installed
	$(BIN)/ctxdeploy demo -o demo
	@echo "the command is $(VENV)/bin/ctxdeploy here;  . $(VENV)/bin/activate  puts it on the path"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p ctxdeploy

test: $(VENV)/installed $(VENV)/rtx lint
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

# Measures again what README and docs/performance.md say: DATA=minibench TRAINING=trainphotos LANDMARKS=landmarks make bench
bench: $(VENV)/installed
	$(BIN)/pip install -q --config-settings editable_mode=strict -e '.[bench]'
	PYTHON=$(BIN)/python benchmarks/all.sh

clean:
	rm -rf $(VENV) build demo *.egg-info
