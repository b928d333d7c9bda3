"""What routers share: the door, the bound, the order of overlapping requests, and `done` on a thread of the router.

Invariants
  1. Of two requests whose ranges overlap, at least one of them a change, the later one starts when the earlier one is
     done.
  2. At most `depth` requests are submitted and not done.
So a concrete router may carry out what it has started in any order, and may try a request again: nothing that matters
overtakes it.
"""
from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from functools import partial

from cdp.platform.api import IORouterImpl
from cdp.platform.callers import Caller, guarded, wait_until
from cdp.platform.structures import IoRequest, Op
from cdpcore.base.errors import CdpError, Closed, InvalidRequest

log = logging.getLogger("cdp.platform.routers")


class Router(IORouterImpl):
    """A concrete router sets size_bytes and read_only, implements _start and _shutdown, and calls _finish once for each
    request started."""

    def __init__(self, name: str, depth: int = 64):
        self.name, self.depth = name, depth
        self._state = threading.Condition()
        self._admitted: dict[IoRequest, bool] = {}      # in the order of submit(); True: started
        self._under_way = 0
        self._closed = False
        self._caller = Caller(f"router {name}", log.error)

    @abstractmethod
    def _start(self, request: IoRequest) -> None:
        """Begin; on any thread, without a lock. Should not wait long."""

    @abstractmethod
    def _shutdown(self) -> None:
        """Nothing is under way any more: end threads, close what is open."""

    def submit(self, request: IoRequest, *, deadline: float | None = None) -> None:
        request.check(self.size_bytes)
        if self.read_only and request.op not in (Op.READ, Op.FLUSH):
            raise InvalidRequest(f"{self.name}: a {request.op.name} to a read-only disk", "open it for writing")
        with self._state:
            if not self._caller.is_me():
                wait_until(self._state, lambda: self._under_way < self.depth or self._closed, deadline,
                           f"{self.name}: {self.depth} requests are under way; none was done")
            if self._closed:
                raise Closed(f"{self.name}: the router is closed")
            if request in self._admitted:
                raise InvalidRequest(f"{self.name}: a request that is under way already", "make one for each submit()")
            self._under_way += 1
            free = self._is_free(request)
            self._admitted[request] = free
        if free:
            self._start(request)

    def _is_free(self, request: IoRequest) -> bool:
        """Lock held: no earlier request that is not done stands in its way."""
        for earlier in self._admitted:
            if earlier is request:
                break
            if (earlier.offset < request.offset + request.length and request.offset < earlier.offset + earlier.length
                    and not earlier.op == request.op == Op.READ):
                return False
        return True

    def _finish(self, request: IoRequest, error: CdpError | None) -> None:
        with self._state:
            del self._admitted[request]
            freed = [waiting for waiting, started in self._admitted.items() if not started and self._is_free(waiting)]
            for waiting in freed:
                self._admitted[waiting] = True
        self._caller.post(partial(self._done, request, error))
        for waiting in freed:
            self._start(waiting)

    def _done(self, request: IoRequest, error: CdpError | None) -> None:
        guarded(partial(request.done, request, error), log.error)
        with self._state:
            self._under_way -= 1
            self._state.notify_all()

    def close(self) -> None:
        with self._state:
            first, self._closed = not self._closed, True
            self._state.notify_all()
            if not self._caller.is_me():
                self._state.wait_for(lambda: self._under_way == 0)
        if first:
            self._shutdown()
            self._caller.close()
