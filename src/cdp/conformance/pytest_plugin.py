"""pytest's option --platform, for `pytest --pyargs cdp.conformance`. A plugin, because pytest reads no conftest.py of a
package before it has parsed the command line; it imports nothing, since every run of pytest in this environment loads
it."""
from __future__ import annotations

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Called by pytest."""
    parser.getgroup("cdp").addoption("--platform", action="append", metavar="NAME",
                                     help="platform for cdp.conformance: a name, or MODULE:CLASS; may be repeated")
