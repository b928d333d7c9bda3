"""What happens to a volume that another process serves, as cdp.moments.events.Watch gives it of one that is open here.

Its server is asked for what is new, LOOK_S after it said that there is nothing: it keeps nothing for who watches, and a
server that takes over from it is asked in its place. A new server has a stream of its own, so an event `lost` with a
count of None comes then.
Threading: any thread.
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
AWAY_S = 15.0       # so long a server may be away while another takes over

Ask = Callable[[int | None, str | None], EventsPage]
"""(since, stream): a page of events. Raises Closed where the volume is closed here, Unavailable."""


class RemoteWatch:
    """As Watch. Raises Unavailable where no server has the volume any more."""

    def __init__(self, ask: Ask, since: Event | int | None, timeout_s: float | None, kinds: Iterable[str] | None):
        self._ask, self._timeout_s = ask, timeout_s
        self._since, self._stream = place_of(since, None, timeout_s)
        self._kinds = kinds_of(kinds)
        self._came: deque[Event] = deque()      # at most a page; guarded by _lock, as the place
        self._lock, self._over = threading.Lock(), threading.Event()
        if self._since is None:
            self._look()

    @property
    def closed(self) -> bool:
        return self._over.is_set()

    def get(self, timeout_s: float | None = None) -> Event | None:
        """The next event, waited for as long as that (None: for ever; 0: not at all). None: nothing came, or it is
        over."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._over.is_set():
            with self._lock:
                if not self._came:
                    self._look()
                if self._came:
                    return self._came.popleft()
            left_s = LOOK_S if until_s is None else min(LOOK_S, until_s - time.monotonic())
            if left_s <= 0:
                return None
            self._over.wait(left_s)
        return None

    def _look(self) -> None:
        until_s = time.monotonic() + AWAY_S
        while not self._over.is_set():
            try:
                page = self._ask(self._since, self._stream)
            except Closed:
                self._over.set()
                return
            except Unavailable:
                if time.monotonic() >= until_s:
                    raise
                self._over.wait(LOOK_S)
                continue
            self._stream, self._since = page["stream"], page["since"]
            for e in page["events"]:
                if self._kinds is None or e["kind"] in self._kinds or e["kind"] == "lost":
                    self._came.append(Event(e["number"], e["stream"], e["ts_ns"], e["kind"], e["text"], e["details"]))
            return

    def close(self) -> None:
        """It ends, also for a thread that waits in it. Idempotent."""
        self._over.set()

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
