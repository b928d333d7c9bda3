"""Who holds which range when: overlapping ones in the order of coming, others at once, and no more of them than there
are places."""
import threading
from collections.abc import Callable

import pytest

from cdpcore.base.errors import InvalidRequest
from cdpcore.inplace.range_lock import RangeLock

pytestmark = pytest.mark.sanitize

PLACES = 64


def start(job: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    """Polled a bounded number of times, so that what never comes is told."""
    pause = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        pause.wait(0.001)
    pytest.fail("it did not come to that")


def test_a_long_range_has_its_turn_among_short_ones():
    """Somebody holds the first unit; one wants a hundred; then many want one unit each, of which all but the first are
    nobody's. Those come after it, each in its turn; who wants what lies behind it does not wait."""
    lock, order = RangeLock(), []
    first = lock.hold(0, 1)

    def want(start: int, end: int) -> Callable[[], None]:
        def job() -> None:
            place = lock.hold(start, end)
            order.append((start, end))
            lock.let_go(place)
        return job

    threads = [start(want(0, 100))]
    until(lambda: lock.waiting() == 1)
    for k in range(20):
        threads.append(start(want(k % 10, k % 10 + 1)))
        until(lambda k=k: lock.waiting() == k + 2 or bool(order))
    assert not order, "a short one has overtaken the long one"
    lock.let_go(lock.hold(100, 200))
    lock.let_go(first)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert order[0] == (0, 100) and len(order) == 21
    assert lock.waiting() == 0


def test_a_long_range_among_threads_that_never_stop():
    """However they come: from when it has its place, each of the others holds its own range once more at the most."""
    lock, stop, turns = RangeLock(), threading.Event(), [0] * 4

    def short(t: int) -> None:
        while not stop.is_set():
            place = lock.hold(t, t + 2)
            turns[t] += 1
            lock.let_go(place)

    threads = [start(lambda t=t: short(t)) for t in range(4)]
    try:
        for _ in range(50):
            blocker = lock.hold(1, 2)
            seen: list[list[int]] = []

            def long(seen: list[list[int]] = seen) -> None:
                place = lock.hold(0, 10)
                seen.append(list(turns))
                lock.let_go(place)

            thread = start(long)
            until(lambda: lock.waiting() == 5)      # two of the short ones for the unit, two for the long one, and that
            before = list(turns)
            lock.let_go(blocker)
            thread.join(60)
            assert not thread.is_alive() and len(seen) == 1
            assert all(b - a <= 1 for a, b in zip(before, seen[0], strict=True)), (before, seen)
    finally:
        stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_places_are_bounded():
    lock, order = RangeLock(), []
    held = [lock.hold(2 * i, 2 * i + 1) for i in range(PLACES)]

    def late(i: int) -> None:
        place = lock.hold(1000 + i, 1001 + i)
        order.append(i)
        lock.let_go(place)

    threads = [start(lambda i=i: late(i)) for i in range(3)]
    assert not order and lock.waiting() == 0        # they have no place to wait in
    lock.let_go(held.pop(17))
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert sorted(order) == [0, 1, 2]
    for place in held:
        lock.let_go(place)


def test_wrong_uses():
    lock = RangeLock()
    for empty in ((5, 5), (6, 5)):
        with pytest.raises(InvalidRequest, match="range"):
            lock.hold(*empty)
    place = lock.hold(0, 1)
    lock.let_go(place)
    for gone in (place, PLACES):
        with pytest.raises(InvalidRequest, match="not held"):
            lock.let_go(gone)
