# All set-up is done here, in .venv, from a fresh clone (Python 3.11+, a C compiler, make). `make help` lists targets.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
INSTALLED := $(VENV)/.installed
TEST_DEPS := $(VENV)/.test-deps
FUZZ_DEPS := $(VENV)/.fuzz-deps
SOURCES := pyproject.toml setup.py README.md \
	$(shell find src -name '*.py' -o -name '*.py[xi]' -o -name '*.pxd' -o -name py.typed -o -name '*.[ch]')

# What is built and tested is this checkout, with what .venv has.
unexport PYTHONPATH PYTHONHOME
# Else every process of the tests compiles the modules of the tests, or of an editable install, for itself.
unexport PYTHONDONTWRITEBYTECODE
comma := ,

.PHONY: help demo test long soak histories seeded-bugs fuzz lint man deb packages bench plain sanitize dev clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo "  ARGS=... goes to the program that a target runs: make test ARGS='-k restore', make demo ARGS=--quick"

demo: $(INSTALLED) ## what cdp does, on a small disk: a file system is destroyed, and restored to the moment before
	$(PY) -m cdp.demo $(ARGS)

# Four tests at a time on two cores: they wait for two fifths of their time. Those of a group run in one worker.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 3 / 2 + 1)
test: $(INSTALLED) $(TEST_DEPS) ## all tests but those of `make lint`, the seeded ones with a few seeds
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup -m 'not long and not lint' $(ARGS)

long: $(INSTALLED) $(TEST_DEPS) ## the tests that are too long for `make test`, once
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup -o addopts=--strict-markers -m 'long and not lint' $(ARGS)

SECONDS ?= 600
soak: $(INSTALLED) $(TEST_DEPS) ## the seeded tests with new seeds, for SECONDS=600; SEED=... repeats an earlier run
	$(PY) tests/soak.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

histories: $(INSTALLED) $(TEST_DEPS) ## simulated histories of every kind, in processes, for SECONDS=600; how many is kept
	$(PY) tests/histories.py --seconds $(SECONDS) $(ARGS)

seeded-bugs: $(INSTALLED) $(TEST_DEPS) ## what notices each bug that is planted, and after how long
	$(PY) -m pytest -m planted --planted $(ARGS)

fuzz: SECONDS := 60
fuzz: $(INSTALLED) $(TEST_DEPS) $(FUZZ_DEPS) ## fuzzers of all readers of bytes, SECONDS=60 each; TARGET=frames,runs: these alone
	$(PY) tests/fuzz/campaign.py --seconds $(SECONDS) $(if $(TARGET),--target $(TARGET)) $(ARGS)

lint: $(INSTALLED) $(TEST_DEPS) ## ruff, mypy, the stubs of the core, who may import whom, house rules
	$(PY) -m ruff check setup.py src tests bench
	$(PY) -m mypy src
	$(PY) -m pytest -m lint $(ARGS)

man: $(INSTALLED) ## the manual pages and the completions of bash, zsh and fish, in build/man and build/completions
	$(PY) -m cdp.cli.man build/man
	mkdir -p build/completions
	for shell in bash zsh fish; do _CDP_COMPLETE=$${shell}_source $(PY) -m cdp > build/completions/cdp.$$shell; done

deb: ## a Debian package for this machine's Debian, in build/deb (contrib/debian/build.sh says what it needs)
	contrib/debian/build.sh

packages: $(INSTALLED) $(TEST_DEPS) ## the Debian package, the wheel and the image, each tried where nothing else is
	CDP_TRY_PACKAGES=1 $(PY) -m pytest -m long -rs tests/interop/test_interop_packages.py $(ARGS)

bench: $(INSTALLED) ## the benchmarks (bench/README.md)
	$(PY) -m bench $(ARGS)

# Every thing that may be missing, in one line, before anything is made.
define LACKS
import importlib.util as util, os, shlex, shutil, sys, sysconfig
compiler = shlex.split(os.environ.get("CC") or "cc")[0]
sys.exit("cdp needs Python 3.11 or later: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else
    sys.executable + " lacks venv and ensurepip: install them (Debian: python3-venv), or make PYTHON=..."
        if not (util.find_spec("venv") and util.find_spec("ensurepip")) else
    sys.executable + " lacks its C headers: install them (Debian: python3-dev), or make PYTHON=..."
        if not os.path.exists(sysconfig.get_path("include") + "/Python.h") else
    compiler + ": no such C compiler: install one (Debian: gcc), or make CC=..."
        if not shutil.which(compiler) else None)
endef
export LACKS

$(PY):
	@test -w . || { echo "$$PWD is not writable, and all is built there: copy the checkout elsewhere" >&2; exit 1; }
	@command -v "$(PYTHON)" > /dev/null || { echo "$(PYTHON): no such Python: make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c "$$LACKS"
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(INSTALLED): $(SOURCES) | $(PY)
	@echo "Building and installing cdp into $(VENV) (a minute or two, once)"
	$(PIP) install .
	@touch $@

# $(1): extras of pyproject.toml, these alone: naming the package too would build it again.
define EXTRAS
	$(PY) -c 'import sys, tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
		print(*(one for name in sys.argv[1:] for one in extras[name]), sep="\n")' $(1) > $@-requirements.txt
	$(PIP) install -r $@-requirements.txt
	@touch $@
endef
$(TEST_DEPS): pyproject.toml | $(PY)
	@echo "Installing what the tests need into $(VENV)"
	$(call EXTRAS,replay test)
$(FUZZ_DEPS): pyproject.toml | $(PY)
	@echo "Installing what the fuzzers need into $(VENV)"
	$(call EXTRAS,fuzz)

# Two more builds of the core, each under build/, with the tests that have its name as their mark.
# $(1): the environment of the build; $(2): its name
define BUILD
	$(PIP) install 'setuptools>=77' 'cython>=3.2'
	mkdir -p build/$(2)
	tar --exclude '*.so' -cf - setup.py pyproject.toml README.md LICENSE src | tar -xf - -C build/$(2)
	cd build/$(2) && $(1) $(abspath $(PY)) setup.py -q build_clib build_ext --inplace
endef

plain: $(INSTALLED) $(TEST_DEPS) ## tests of the core built without a Linux-only call
	$(call BUILD,CDP_PLAIN_POSIX=1,plain)
	PYTHONPATH=$(abspath build/plain/src) $(PY) -c 'import cdpcore.nbd.connection as c, sys; sys.exit(c.RELEASES_PAGES)'
	PYTHONPATH=$(abspath build/plain/src) $(PY) -m pytest -n $(WORKERS) --dist loadgroup -m 'plain and not long and not once' $(ARGS)

# Python itself is not instrumented: the runtimes are preloaded, and leaks are ignored (the interpreter has some).
sanitize: $(INSTALLED) $(TEST_DEPS) ## tests of the core built with AddressSanitizer and UBSan (GCC, Linux)
	$(call BUILD,CDP_SANITIZE=address$(comma)undefined,sanitize)
	LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH=$(abspath build/sanitize/src) \
		$(PY) -m pytest -n $(WORKERS) --dist loadgroup -m 'sanitize and not long and not once' $(ARGS)

dev: | $(PY) ## for working on it: an editable install, built in place
	$(PIP) install 'setuptools>=77' 'cython>=3.2'
	$(PIP) install --no-build-isolation -e '.[replay,test]'

clean: ## away with all that was built
	rm -rf build dist .venv src/*.egg-info src/cdpcore/*.so src/cdpcore/*/*.so
