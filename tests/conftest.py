"""What all tests have: the seeds of seeded tests, and how a failure is run again."""
from __future__ import annotations

from collections.abc import Generator

import pytest
from support import seeds as seeding


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cdp")
    group.addoption("--seed", type=int, help="seeded tests run this seed and no other")
    group.addoption("--seconds", type=float, help="with --seed: and the seeds after it, for this long (make soak)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--seconds"):
        seeding.examples_factor = seeding.SOAK_EXAMPLES


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> seeding.Seeds:
    return seeding.Seeds(request.config.getoption("--seed"), request.config.getoption("--seconds"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    used = getattr(item, "funcargs", {}).get("seeds")
    if report.failed and used is not None and used.current is not None:
        report.sections.append(("run it again", f".venv/bin/python -m pytest '{item.nodeid}' --seed={used.current}"))
    return report
