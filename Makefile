# make demo | make test: all set-up is done here, in .venv, from a fresh clone (Python 3.11+, a C compiler, make).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
INSTALLED := $(VENV)/.installed
TEST_DEPS := $(VENV)/.test-deps
SOURCES := pyproject.toml setup.py README.md \
	$(shell find src -name '*.py' -o -name '*.py[xi]' -o -name '*.pxd' -o -name py.typed -o -name '*.[ch]')

# What is built and tested is this checkout, with what .venv has.
unexport PYTHONPATH PYTHONHOME

.PHONY: demo test bench sanitize plain dev clean

demo: $(INSTALLED)
	$(PY) -m cdp.demo $(ARGS)

test: $(INSTALLED) $(TEST_DEPS)
	$(PY) -m pytest $(ARGS)

bench: $(INSTALLED)
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
    compiler + ": no such C compiler: install one (Debian: gcc), or make CC=..." if not shutil.which(compiler) else None)
endef
export LACKS

$(PY):
	@test -w . || { echo "$$PWD cannot be written, and all is built there: copy the checkout to where it can" >&2; exit 1; }
	@command -v "$(PYTHON)" > /dev/null || { echo "$(PYTHON): no such Python: make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c "$$LACKS"
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(INSTALLED): $(SOURCES) | $(PY)
	@echo "Building and installing cdp into $(VENV) (a minute or two, once)"
	$(PIP) install .
	@touch $@

# The extras "replay" and "test" of pyproject.toml alone: naming the package too would build it again.
$(TEST_DEPS): pyproject.toml | $(PY)
	@echo "Installing what the tests need into $(VENV)"
	$(PY) -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
		print(*extras["replay"], *extras["test"], sep="\n")' > $(VENV)/test-requirements.txt
	$(PIP) install -r $(VENV)/test-requirements.txt
	@touch $@

# Tests of the core on a build with AddressSanitizer and UndefinedBehaviorSanitizer (GCC on Linux), made under build/sanitize.
# Python itself is not instrumented: the runtimes are preloaded, and leaks are not looked for (the interpreter has some).
SANITIZE := build/sanitize
SANITIZE_TESTS ?= $(wildcard tests/test_sanitize_*.py tests/test_volume*.py tests/test_model*.py tests/test_check.py \
	tests/test_os_sim.py tests/test_nbd_handshake.py tests/test_image_reopen.py)
sanitize: $(INSTALLED) $(TEST_DEPS)
	$(PIP) install 'setuptools>=77' 'cython>=3.2'
	mkdir -p $(SANITIZE) && cp -R setup.py pyproject.toml README.md LICENSE src $(SANITIZE)
	cd $(SANITIZE) && CDP_SANITIZE=address,undefined $(abspath $(PY)) setup.py -q build_clib build_ext --inplace
	LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH=$(abspath $(SANITIZE))/src $(PY) -m pytest $(SANITIZE_TESTS)

# The core and the platforms built for plain POSIX, without a Linux-only call (CDP_PLAIN_POSIX), under build/plain; and their tests.
PLAIN := build/plain
PLAIN_TESTS ?= $(addprefix tests/test_,osapi.py format.py index.py crc32c.py check.py image_reopen.py model.py threads.py faults.py \
	kill9.py nbd_loop.py nbd_server.py mdpacket.py conformance.py plain.py channel.py channel_failover.py)
plain: $(INSTALLED) $(TEST_DEPS)
	$(PIP) install 'setuptools>=77' 'cython>=3.2'
	mkdir -p $(PLAIN) && tar --exclude '*.so' -cf - setup.py pyproject.toml README.md LICENSE src | tar -xf - -C $(PLAIN)
	cd $(PLAIN) && CDP_PLAIN_POSIX=1 $(abspath $(PY)) setup.py -q build_clib build_ext --inplace
	PYTHONPATH=$(abspath $(PLAIN))/src $(PY) -c 'import cdpcore.nbd.connection, sys; sys.exit(cdpcore.nbd.connection.RELEASES_PAGES)'
	PYTHONPATH=$(abspath $(PLAIN))/src $(PY) -m pytest $(PLAIN_TESTS)

# For working on it: an editable install that rebuilds in place.
dev: | $(PY)
	$(PIP) install 'setuptools>=77' 'cython>=3.2'
	$(PIP) install --no-build-isolation -e '.[replay,test]'

clean:
	rm -rf build dist .venv src/*.egg-info src/cdpcore/*.so src/cdpcore/*/*.so
