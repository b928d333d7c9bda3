"""The events of a volume that another process serves, over a connection of their own to its administration socket.

A request waits there for the next event (`wait_s` of cdp.serve.waiting), so it is a connection that nothing else needs
meanwhile, and that another thread can cut. A server that does not know `wait_s` answers at once.
Threading: ask() by one thread at a time; cut() by any.
"""
from __future__ import annotations

import http.client
import json
import socket
from contextlib import suppress
from typing import cast
from urllib.parse import urlencode

from cdp.ipc.errors import answered_error
from cdp.views import MAX_PAGE_EVENTS, EventsPage
from cdpcore.base.errors import Closed, Unavailable

LATE_S = 5.0        # so much later than it was to come, there is no answer


class _Connection(http.client.HTTPConnection):
    """To a unix socket."""

    def __init__(self, path: str):
        super().__init__("cdp")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LATE_S)
        self.sock.connect(self._path)


class EventLine:
    """Args: socket_path: of the server; path: of the volume's events there; image: which writable image of it, if one;
    text: names the volume in errors."""

    def __init__(self, socket_path: str, path: str, image: str | None, text: str):
        self._socket_path, self._path, self._image, self._text = socket_path, path, image, text
        self._connection: _Connection | None = None
        self._over = False

    def ask(self, since: int | None, stream: str | None, wait_s: float) -> EventsPage:
        """A page of events; where there is none yet, it is waited for so long. Raises Closed after cut(), Unavailable,
        and what the server answers."""
        query = {"since": since, "stream": stream, "image": self._image, "limit": MAX_PAGE_EVENTS, "wait_s": wait_s}
        target = f"{self._path}?{urlencode({name: value for name, value in query.items() if value is not None})}"
        kept = self._connection is not None
        try:
            try:
                status, body = self._get(target, wait_s)
            except (http.client.HTTPException, ConnectionError):
                if not kept or self._over:
                    raise
                status, body = self._get(target, wait_s)       # it was closed, since nobody used it
        except (OSError, http.client.HTTPException) as error:
            if self._over:
                raise Closed(f"{self._text}: the volume is closed") from None
            raise Unavailable(f"{self._text}: its server at {self._socket_path} does not answer: {error}",
                              "see whether 'cdp serve' still runs, then repeat") from None
        if status != http.HTTPStatus.OK:
            raise answered_error(status, body)
        return cast(EventsPage, json.loads(body))

    def _get(self, target: str, wait_s: float) -> tuple[int, bytes]:
        try:
            if self._connection is None:
                self._connection = _Connection(self._socket_path)
                self._connection.connect()
            if self._over:      # cut() may not have seen the connection
                raise ConnectionAbortedError("cut")
            self._connection.sock.settimeout(wait_s + LATE_S)
            self._connection.request("GET", target)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:       # also an interrupt: an answer to this request may still come
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def cut(self) -> None:
        """A thread that waits in ask() gets Closed, and so does everybody from now on. Idempotent."""
        self._over = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def __del__(self) -> None:
        self._hang_up()
