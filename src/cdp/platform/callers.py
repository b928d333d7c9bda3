"""Threads that platforms call back on, and waiting until an absolute time: what implementations in Python share.

Invariant: a Caller runs its calls one at a time, in the order of post(). Its queue is bounded by what it is used for:
every call posted belongs to a message, request or subscription that has a bound of its own, and which is held until the
call was made.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from cdpcore.base.errors import Busy

log = logging.getLogger("cdp.platform")


class Caller:
    """A thread that makes the calls posted to it, in order. What they raise is reported and dropped."""

    def __init__(self, name: str, report: Callable[[str], None] = log.error):
        self._report = report
        self._ready = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` made. After close() it is dropped."""
        with self._ready:
            if not self._closed:
                self._calls.append(call)
                self._ready.notify_all()

    def is_me(self) -> bool:
        """Whether this is the caller's own thread: inside a callback."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Make the calls that are waiting, then end the thread. Returns when it has ended; inside a callback, at
        once."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        if not self.is_me():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._calls or self._closed)
                if not self._calls:
                    return
                call = self._calls.popleft()
            guarded(call, self._report)


def guarded(call: Callable[[], None], report: Callable[[str], None]) -> None:
    """Make a callback; what it raises is a line of the report."""
    try:
        call()
    except Exception as error:
        log.debug("a callback raised", exc_info=True)
        report(f"a callback raised {type(error).__name__}: {error}")


def left(deadline: float | None) -> float | None:
    """Seconds until the deadline, at least 0: a timeout for wait(). None for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def wait_until(condition: threading.Condition, true: Callable[[], object], deadline: float | None, what: str) -> None:
    """Wait on a condition that is held, until `true()` or the deadline. Raises Busy(what)."""
    while not true():
        seconds = left(deadline)
        if seconds == 0.0:
            raise Busy(f"{what} by the deadline", "repeat it with a later one")
        condition.wait(seconds)
