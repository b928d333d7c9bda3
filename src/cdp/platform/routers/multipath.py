"""Several paths to one disk: the first that works is used, a request whose path is lost goes by another, and a lost
path is tried again.

Invariants
  1. A request is on one path at a time. Where a path is lost, or fails it, it is started on another, and its `done`
     comes once.
  2. Order is Router's: what overlaps a request that is not done has not been started, on whatever path.
  3. Without any path a request waits for one, `patience_s` at most.
The paths must lead to one disk with one cache: a flush goes by the path in use, and covers what was written by others.
A path that was given up must not carry out later what was sent by it (a router closes its connection before anything is
repeated).
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from cdp.platform.api import IORouterImpl, PathLost
from cdp.platform.routers.base import Router, log
from cdp.platform.structures import IoRequest
from cdpcore.base.errors import CdpError, InvalidRequest, Unavailable

Opener = Callable[[], IORouterImpl]


class MultipathRouter(Router):
    """MultipathRouter(openers): one function for each path that opens it (again), the preferred one first. One path
    must be there.

    retry_s     how often a path that is lost is tried
    patience_s  how long a request waits for a path
    Raises InvalidRequest where paths lead to disks of different sizes, and the last path's error where none is there.
    """

    def __init__(self, openers: Sequence[Opener], retry_s: float = 1.0, patience_s: float = 30.0):
        self._openers, self._retry_s, self._patience_s = list(openers), retry_s, patience_s
        self._lock = threading.Condition()
        self._paths: list[IORouterImpl | None] = [None] * len(self._openers)
        self._waiting: list[tuple[float, IoRequest, CdpError]] = []     # no path: since when, and why
        self._ending = False
        errors = [error for i in range(len(self._openers)) if (error := self._open(i))]
        live = [path for path in self._paths if path]
        sizes = {(path.size_bytes, path.read_only) for path in live}
        if len(sizes) != 1:
            for path in live:
                path.close()
            if not live:
                raise errors[-1]
            raise InvalidRequest(f"paths to different disks: {sorted(sizes)}", "they must lead to one")
        (self.size_bytes, self.read_only), = sizes
        super().__init__("multipath")
        self._prober = threading.Thread(target=self._probe, name="multipath", daemon=True)
        self._prober.start()

    def in_use(self) -> int | None:
        """Number of the path that requests take now; None: there is none."""
        with self._lock:
            return next((i for i, path in enumerate(self._paths) if path), None)

    def _open(self, i: int) -> CdpError | None:
        try:
            path = self._openers[i]()
        except CdpError as error:
            return error
        known = getattr(self, "size_bytes", path.size_bytes)
        if path.size_bytes != known:
            path.close()
            return InvalidRequest(f"path {i} leads to a disk of {path.size_bytes} bytes, not {known}",
                                  "check where it leads")
        with self._lock:
            self._paths[i] = path
        return None

    # --- requests

    def _start(self, request: IoRequest) -> None:
        self._try(request, frozenset(), Unavailable("no path to the disk", "see why the servers are gone"))

    def _try(self, request: IoRequest, tried: frozenset[int], why: CdpError) -> None:
        """On the first path that it was not tried on; `tried` are those that failed it and yet are there."""
        with self._lock:
            i = next((i for i, path in enumerate(self._paths) if path and i not in tried), None)
            if i is None and not tried:
                self._waiting.append((time.monotonic(), request, why))
                self._lock.notify_all()
                return
            path = self._paths[i] if i is not None else None
        if i is None or path is None:
            self._finish(request, why)      # all there are have failed it
            return
        leg = IoRequest(request.op, request.offset, request.length, request.buffer, request.fua,
                        partial(self._leg_done, request, tried, i, path))
        try:
            path.submit(leg)
        except CdpError as error:       # closed: another request has just found it lost
            self._leg_done(request, tried, i, path, leg, PathLost(error.message))

    def _leg_done(self, request: IoRequest, tried: frozenset[int], i: int, path: IORouterImpl, _leg: IoRequest,
                  error: CdpError | None) -> None:
        if isinstance(error, PathLost):
            self._give_up(i, path, error)
            self._try(request, tried, error)
        elif isinstance(error, Unavailable):
            self._try(request, tried | {i}, error)
        else:
            self._finish(request, error)

    def _give_up(self, i: int, path: IORouterImpl, error: CdpError) -> None:
        with self._lock:
            if self._paths[i] is not path:
                return
            self._paths[i] = None
            self._lock.notify_all()
        log.warning("path %d is lost: %s", i, error)
        # close() waits for the path's requests, which fail one by one.
        threading.Thread(target=path.close, name="multipath-close", daemon=True).start()

    # --- lost paths

    def _probe(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._ending or None in self._paths or self._waiting)
                if self._ending:
                    return
                lost = [i for i, path in enumerate(self._paths) if not path]
            for i in lost:
                if not self._open(i):
                    log.warning("path %d is back", i)
            with self._lock:
                now, alive = time.monotonic(), any(self._paths)
                due = [entry for entry in self._waiting if alive or now - entry[0] >= self._patience_s]
                self._waiting = [entry for entry in self._waiting if entry not in due]
            for _, request, why in due:
                if alive:
                    self._try(request, frozenset(), why)
                else:
                    self._finish(request, why)
            with self._lock:
                if None in self._paths:
                    self._lock.wait_for(lambda: self._ending, self._retry_s)

    def _shutdown(self) -> None:
        with self._lock:
            self._ending = True
            self._lock.notify_all()
        self._prober.join()
        for path in self._paths:
            if path:
                path.close()
