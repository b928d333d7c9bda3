"""What the tests on the simulated machine have in common."""
from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """A crash collects what was left behind (World.forget): only that, and not all of the test run, which takes 90 ms a
    crash."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
