"""What all tests have: the seeds of seeded tests, and how a failure is run again."""
from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator

import pytest
from support import seeds as seeding

pytest_plugins = ("support.nbd_fixtures", "support.costs", "support.planted", "support.warm", "support.children")

QUICK = ("core", "nbd", "trace")    # folders
RUN = pytest.StashKey[int]()    # seeds, in `make soak`


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cdp")
    group.addoption("--seed", type=int, help="seeded tests run this seed and no other")
    group.addoption("--seconds", type=float, help="with --seed: and the seeds after it, for this long (make soak)")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("PYTHONUNBUFFERED", None)    # what is printed is buffered, as it is for users
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:   # a background job of a shell: what tests start has it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--seconds"):
        seeding.examples_factor = seeding.SOAK_EXAMPLES
        config.stash[RUN] = 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quickest last, so that the workers of `make test` end together."""
    items.sort(key=lambda item: item.path.parent.name in QUICK)     # else as they were: the sort is stable


def pytest_collection_finish() -> None:
    """What is there now stays: gc.collect() in a test need not walk through it, which takes 0.3 s with all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def runtime_directory() -> Iterator[None]:
    """Sockets of servers go by a volume's name: tests that run side by side have a runtime directory each."""
    before, own = os.environ.get("XDG_RUNTIME_DIR"), tempfile.mkdtemp(prefix="cdp-run-", dir="/tmp")
    os.environ["XDG_RUNTIME_DIR"] = own
    yield
    if before is None:
        del os.environ["XDG_RUNTIME_DIR"]
    else:
        os.environ["XDG_RUNTIME_DIR"] = before
    shutil.rmtree(own, ignore_errors=True)


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> Iterator[seeding.Seeds]:
    used = seeding.Seeds(request.config.getoption("--seed"), request.config.getoption("--seconds"))
    yield used
    if RUN in request.config.stash:
        request.config.stash[RUN] += used.done


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash.get(RUN, 0):
        terminalreporter.write_line(f"{config.stash[RUN]} seeds")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    used = getattr(item, "funcargs", {}).get("seeds")
    if report.failed and used is not None and used.current is not None:
        report.sections.append(("run it again", f".venv/bin/python -m pytest '{item.nodeid}' --seed={used.current}"))
    return report
