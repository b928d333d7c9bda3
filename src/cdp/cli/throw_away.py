"""Throw-away writable images of moments, over NBD: for probes of a bisection, and to look at a moment.

They are images of the volume's server; where there is none, one is started for as long as they are needed. Whatever
happens, images that were made are deleted.
Threading: image() from several threads.
"""
from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from cdp.service.connect import connect, find_server
from cdp.service.locate import Location
from cdp.settings import Settings
from cdp.views import Service
from cdpcore.base.errors import Busy, Unavailable

END_S, CLOSED_S = 30.0, 10.0


class ThrowAway:
    """A context manager. `prefix`: what the names of the images begin with."""

    def __init__(self, location: Location, settings: Settings, prefix: str):
        self._location, self._settings, self._prefix = location, settings, prefix
        self._stack = ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        with self._stack:
            remote = find_server(self._location)
            if remote is None:
                self._serve()
            else:
                remote.close()
            with connect(self._location, self._settings) as service:
                served = service.info()["served"]
            assert served is not None
            if not (uris := [uri for uri in served["uris"] if uri.startswith("nbd+unix:")] or served["uris"]):
                raise Unavailable(f"{self._location.text}: its server has no NBD address", "serve it on one")
            self._uri = uris[0]
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()

    def _serve(self) -> None:
        """A server of our own."""
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"cdp-{self._prefix}-"))
        server = subprocess.Popen(
            [sys.executable, "-m", "cdp", "serve", self._location.root, "--unix", f"{folder}/nbd",
             "--admin-socket", f"{folder}/admin"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
        self._stack.callback(_end, server)
        assert server.stderr is not None
        said = ""
        for line in server.stderr:
            said = line
            if line == "cdp: ready\n":
                return
        raise Unavailable(f"{self._location.text} cannot be served: {said.strip()}", "serve it, then repeat")

    @contextmanager
    def image(self, seq: int) -> Iterator[str]:
        """The URI of an image of a record; it is deleted at the end. Raises RefusedPoint where that was freed."""
        name = f"{self._prefix}-{os.getpid()}-{next(self._numbers)}"
        with connect(self._location, self._settings) as service:
            service.create_image(name, at=f"#{seq}!")
            try:
                head, question, query = self._uri.partition("?")
                yield f"{'/'.join((head, *self._location.images, name))}{question}{query}"
            finally:
                _delete(service, name)


def _delete(service: Service, name: str) -> None:
    """Its last client has gone; the server notices that in its time."""
    until_s = time.monotonic() + CLOSED_S
    while True:
        try:
            return service.delete_image(name)
        except Busy:
            if time.monotonic() > until_s:
                raise
        time.sleep(0.02)


def _end(server: subprocess.Popen[str]) -> None:
    server.terminate()
    try:
        server.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.communicate()
