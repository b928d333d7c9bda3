"""A target in Python, run by atheris: `python tests/fuzz/guided.py NAME [options of libFuzzer] [folders]`.

The modules of cdp are instrumented as they are imported, so coverage guides what comes next; the compiled core is not
(what it parses has harnesses in C). A target is a module with one(data): it may raise nothing.
"""
from __future__ import annotations

import importlib
import logging
import sys

import atheris


def main() -> None:
    logging.disable(logging.CRITICAL)
    name = sys.argv[1]
    with atheris.instrument_imports(include=["cdp", "targets"]):
        target = importlib.import_module(f"targets.{name}")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
