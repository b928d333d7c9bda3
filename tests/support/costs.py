"""What the tests cost: at the end of a run the sums of their durations and of their processor time, processes that they
wait for included; `--costs N` lists the N tests and the N files that take the most of it. Processor time says more on a
machine that others use too."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator

import pytest

BEGAN = pytest.StashKey[float]()


def cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("cdp").addoption("--costs", type=int, default=0,
                                     help="list so many tests, and files, by processor time")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[BEGAN] = cpu_s()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "teardown":       # the last of a test, and what a worker sends to the process that sums
        report.user_properties.append(("cpu_s", cpu_s() - item.stash[BEGAN]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    duration_s, costs = 0.0, list[tuple[float, str]]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                duration_s += report.duration
                costs += [(value, report.nodeid) for key, value in report.user_properties if key == "cpu_s"]
    terminalreporter.write_line(
        f"{len(costs)} tests: {duration_s:.0f} s, {sum(cost for cost, _ in costs):.0f} s of processor time")
    files = Counter[str]()
    for cost, nodeid in costs:
        files[nodeid.split("::")[0]] += cost
    most = config.getoption("--costs")
    for cost, name in [*sorted(costs, reverse=True)[:most], *((cost, name) for name, cost in files.most_common(most))]:
        terminalreporter.write_line(f"{cost:7.2f} s  {name}")
