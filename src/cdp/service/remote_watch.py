"""What happens to a volume that another process serves, as cdp.moments.events.Watch gives it of one that is open here.

Its server is asked for what is new, and answers when there is something, or after as long as it was asked to wait: at
most LONGEST_S. It keeps nothing for who watches, and a server that takes over from it is asked in its place. A new
server has a stream of its own, so an event `lost` with a count of None comes then. One that does not wait, because it
is of an older version, stops, or has too many that wait, is asked again after LOOK_S.
Threading: any thread; one of those that are in get() asks, for all of them.
"""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Self

from cdp.moments.events import Event, kinds_of, place_of
from cdp.views import EventsPage
from cdpcore.base.errors import Closed, Unavailable

LOOK_S = 0.25
LONGEST_S = 25.0    # cdp.serve.waiting allows more
AWAY_S = 15.0       # so long a server may be away while another takes over

Ask = Callable[[int | None, str | None, float], EventsPage]
"""(since, stream, wait_s): a page of events, which may wait so long for the first of them. Raises Closed where the
volume is closed here, Unavailable."""


class RemoteWatch:
    """As Watch. Raises Unavailable where no server has the volume any more. cut: ends an ask() of another thread, which
    raises Closed then."""

    def __init__(self, ask: Ask, since: Event | int | None, timeout_s: float | None, kinds: Iterable[str] | None,
                 cut: Callable[[], None] = lambda: None):
        self._ask, self._timeout_s, self._cut = ask, timeout_s, cut
        self._since, self._stream = place_of(since, None, timeout_s)
        self._kinds = kinds_of(kinds)
        self._changed, self._over = threading.Condition(), threading.Event()
        self._came: deque[Event] = deque()      # at most a page; guarded by _changed
        self._asking = False                    # a thread is in _look(), and has the place; guarded by _changed
        if self._since is None:
            self._look(0)

    @property
    def closed(self) -> bool:
        return self._over.is_set()

    def get(self, timeout_s: float | None = None) -> Event | None:
        """The next event, waited for as long as that (None: for ever; 0: not at all). None: nothing came, or it is
        over."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        asked = False
        while not self._over.is_set():
            with self._changed:
                if self._came:
                    return self._came.popleft()
                left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
                if left_s == 0 and (asked or self._asking):
                    return None
                if self._asking:
                    self._changed.wait(left_s)
                    continue
                self._asking = True
            try:
                self._look(LONGEST_S if left_s is None else min(left_s, LONGEST_S))
            finally:
                with self._changed:
                    self._asking = False
                    self._changed.notify_all()
            asked = True
        return None

    def _look(self, wait_s: float) -> None:
        """Ask once, and for so long; by one thread at a time."""
        until_s = time.monotonic() + AWAY_S
        while not self._over.is_set():
            began_s = time.monotonic()
            try:
                page = self._ask(self._since, self._stream, wait_s)
            except Closed:
                self._over.set()
                return
            except Unavailable:
                if time.monotonic() >= until_s:
                    raise
                self._over.wait(LOOK_S)
                continue
            self._stream, self._since = page["stream"], page["since"]
            with self._changed:
                self._came.extend(
                    Event(e["number"], e["stream"], e["ts_ns"], e["kind"], e["text"], e["details"])
                    for e in page["events"] if self._kinds is None or e["kind"] in self._kinds or e["kind"] == "lost")
            if not page["events"] and (pause_s := min(wait_s, LOOK_S) - (time.monotonic() - began_s)) > 0:
                self._over.wait(pause_s)
            return

    def close(self) -> None:
        """It ends, also for a thread that waits in it. Idempotent."""
        self._over.set()
        self._cut()
        with self._changed:
            self._changed.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.get(self._timeout_s)
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
