# make demo | make test: all set-up is done here, in .venv, from a fresh clone (Python 3.11+, a C compiler, make).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SOURCES := pyproject.toml setup.py $(shell find src -name '*.py*' -o -name '*.pxd' -o -path '*/c/*.[ch]')

.PHONY: demo test bench dev clean

demo: $(STAMP)
	$(PY) -m cdp.demo

test: $(STAMP)
	$(PY) -m pytest $(ARGS)

bench: $(STAMP)
	$(PY) -m bench $(ARGS)

$(STAMP): $(SOURCES)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check '.[test]'
	touch $@

# For working on it: an editable install that rebuilds in place.
dev:
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check 'setuptools>=77' cython
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[test]'

clean:
	rm -rf build dist .venv src/*.egg-info src/cdpcore/*.so src/cdpcore/*.c
