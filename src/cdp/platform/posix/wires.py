"""A node's links to the hub: a link of its own for each thread that calls, and a thread for each callback."""
from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from cdp.ipc.errors import decode_error
from cdp.ipc.link import Link
from cdp.platform.callers import guarded
from cdp.platform.posix.calls import call, unpacked
from cdpcore.base.errors import Closed, Unavailable


class Wires:
    """A node's links to the hub."""

    def __init__(self, path: str, instance: int, options: Mapping[str, int], report: Callable[[str], None]):
        self._path, self._instance, self._report = path, instance, report
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._links: list[Link] = []
        self._tokens = itertools.count(1)
        self._callbacks: dict[str, Link] = {}
        self.closed = False
        self._life = self._open({"op": "join", "options": dict(options)})

    def _open(self, first: dict[str, Any]) -> Link:
        link = Link.connect(self._path)
        try:
            link.send({**first, "node": self._instance})
            if first["op"] != "calls":
                if (got := link.receive()) is None:
                    raise Unavailable("the platform's hub process is gone", "start the system again")
                if "error" in got[0]:
                    raise decode_error(got[0].get("error"))
        except BaseException:
            link.close()
            raise
        with self._lock:
            self._links.append(link)
        return link

    def call(self, method: str, *args: Any) -> Any:
        return self.call_with_fds(method, *args)[0]

    def call_with_fds(self, method: str, *args: Any) -> tuple[Any, list[int]]:
        """On this thread's link; in a callback on the callback's, so that the hub knows that it is one."""
        link: Link | None = getattr(self._mine, "link", None)
        if self.closed:
            raise Closed(f"node {self._instance} of the platform is closed")
        if link is None:
            link = self._mine.link = self._open({"op": "calls"})
        return call(link, method, args)

    def callbacks(self, function: Callable[..., None], token: str = "") -> str:
        """A thread that makes callbacks with `function`; the token to name it by."""
        token = token or f"callback-{next(self._tokens)}"
        link = self._open({"op": "callbacks", "token": token})
        self._callbacks[token] = link
        threading.Thread(target=self._run, args=(link, function, token), name=f"posix-{self._instance}-{token}",
                         daemon=True).start()
        return token

    def _run(self, link: Link, function: Callable[..., None], token: str) -> None:
        self._mine.link = link
        while (got := link.receive()) is not None:
            args = unpacked(got[0]["event"])
            guarded(lambda args=args: function(*args), self._report)    # type: ignore[misc]
            if not link.send({"done": True}) or token not in self._callbacks:
                break
        self._drop(link)

    def end(self, token: str) -> None:
        """No more of these callbacks; the hub has seen to that. In the callback itself: after it."""
        link = self._callbacks.pop(token, None)
        if link and getattr(self._mine, "link", None) is not link:
            link.hang_up()

    def _drop(self, link: Link) -> None:
        with self._lock:
            if link in self._links:
                self._links.remove(link)
        link.close()

    def close(self) -> None:
        self.closed = True
        with self._lock:
            links = list(self._links)
        for link in links:
            link.hang_up()
        self._life.close()


class OneShots:
    """Callbacks that are each called once, by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Callable[..., None]] = {}

    def add(self, function: Callable[..., None]) -> int:
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = function
            return number

    def forget(self, number: int) -> None:
        with self._lock:
            self._waiting.pop(number, None)

    def __call__(self, number: int, *args: Any) -> None:
        with self._lock:
            function = self._waiting.pop(number, None)
        if function:
            function(*args)
