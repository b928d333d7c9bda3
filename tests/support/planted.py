"""Bugs that are planted, and what notices them: `make seeded-bugs` prints a table, with the seed of the history that
failed and the processor time that it took to get there, from the start of the test."""
from __future__ import annotations

import re
from collections.abc import Generator

import pytest
from support.costs import BEGAN, cpu_s

SEED = re.compile(r"^seed (\d+): (.*)", re.MULTILINE)      # as notice() prints it
ROWS = pytest.StashKey[list[tuple[str, str, float, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("cdp").addoption("--planted", action="store_true",
                                     help="with -m planted: print when each bug was noticed, and by what")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and item.get_closest_marker("planted"):
        found = SEED.search(report.capstdout)
        text = found[2] if found else "" if report.passed else "NOT NOTICED"
        name = item.nodeid.split("/")[-1].replace("test_", "")
        item.config.stash[ROWS].append((name, found[1] if found else "-", cpu_s() - item.stash[BEGAN], text))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if rows and config.getoption("--planted"):
        terminalreporter.write_line(f"{'bug':76} {'seed':>5} {'processor':>10}  what was noticed")
        for name, seed, seconds, text in rows:
            terminalreporter.write_line(f"{name:76} {seed:>5} {seconds:8.1f} s  {text[:100]}")
        terminalreporter.write_line(f"{len(rows)} planted bugs")
