"""What tests start ends with them. Of the processes that were started in a test's body, those that its fixtures leave
running are killed if it failed (one that passes may leave them to a fixture of its module); those of any test are when
the run ends, an interrupt included."""
from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Generator
from typing import Any

import pytest
from support import warm

_started: list[subprocess.Popen[Any]] = []     # by tests; those that have ended go when a test ends
_testing = False                               # else it is what pytest starts, such as its workers
LOST = pytest.StashKey[list[subprocess.Popen[Any]]]()
_init = subprocess.Popen.__init__


def _noted(self: Any, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    if _testing and not isinstance(self, warm.Host):
        _started.append(self)


def _running() -> list[subprocess.Popen[Any]]:
    _started[:] = [process for process in _started if process.poll() is None]
    return list(_started)


def _end(processes: list[subprocess.Popen[Any]]) -> None:
    for process in processes:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):    # it waits for a disk
            process.wait(10)


def pytest_configure() -> None:
    subprocess.Popen.__init__ = _noted      # type: ignore[method-assign]


def pytest_unconfigure() -> None:
    _end(_running())
    subprocess.Popen.__init__ = _init       # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _testing
    _testing = True
    try:
        return (yield)
    finally:
        _testing = False
        _end([process for process in _running() if process in item.stash.get(LOST, ())])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    before = _running()
    try:
        return (yield)
    except BaseException:
        item.stash[LOST] = [process for process in _running() if process not in before]
        raise
