"""Requests that wait until something happens: GET /v1/volumes/VOLUME/events with wait_s.

Invariants
  1. One that waits holds no thread, no lock and no image: it is a future of the event loop, which the stream of events
     wakes. Nothing is kept for it: who reads slowly is a place among the events that are kept once for all.
  2. At most MOST_WAITING wait at a time, each for at most MAX_WAIT_S; one more is answered at once, as if it had not
     asked to wait. One whose client has gone ends.
  3. None waits while the server stops or is handed over: release().
until() belongs to the event loop; release() and resume() to any thread.
"""
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from cdp.moments.events import Events

MAX_WAIT_S = 30.0
MOST_WAITING = 256

Receive = Callable[[], Awaitable[Any]]


class Waiting:
    """The requests of one server that wait."""

    def __init__(self, most: int = MOST_WAITING):
        self._most = most
        self._released = False
        self._waiting: dict[object, Callable[[], None]] = {}    # changed by the event loop alone

    @property
    def count(self) -> int:
        return len(self._waiting)

    async def until(self, events: Events, number: int, wait_s: float, receive: Receive) -> None:
        """Until there is an event after `number`, or the stream has ended; until wait_s have passed, the client has
        gone or release(); or not at all. receive: of the request."""
        if self._released or len(self._waiting) >= self._most:
            return
        loop, came = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):        # the event loop has ended
                loop.call_soon_threadsafe(came.set)

        key = object()
        self._waiting[key] = wake
        forget = events.call_after(number, wake)
        tasks = [asyncio.ensure_future(came.wait()), asyncio.ensure_future(_gone(receive))]
        try:
            if not self._released:      # release() may not have seen it
                await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forget()
            del self._waiting[key]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def release(self) -> None:
        """All are answered, and no more wait."""
        self._released = True
        for wake in list(self._waiting.values()):
            wake()

    def resume(self) -> None:
        """They may wait again: the server goes on."""
        self._released = False


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
