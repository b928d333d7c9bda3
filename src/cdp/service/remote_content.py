"""The bytes of a volume, or of a moment, that another process serves: over NBD where that can be had, else over the
administration socket.

Invariants
  1. A read that failed over NBD, where an error is a number and says little, is repeated the other way.
  2. A write is sent once: repeated after an error, it could go over what another client has written meanwhile.
Threading: any thread; one request at a time.
"""
from __future__ import annotations

import threading
from collections.abc import Callable

from cdp.nbd.client import Client, ExportAddress
from cdp.service.remote import RemoteService
from cdpcore.base.errors import CdpError


class Content:
    """Args: addresses: where to try NBD; service: the administration; at: the moment, None: now."""

    def __init__(self, addresses: list[ExportAddress], service: Callable[[], RemoteService], at: str | None):
        self._addresses, self._service, self._at = addresses, service, at
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._without = not addresses

    def _connected(self) -> Client | None:
        """A connection that is alive, as far as is known here. With _lock."""
        if self._client is not None and self._client.is_gone():
            self._hang_up()     # its server was started again: nothing is under way, so nothing is repeated
        if self._client is None and not self._without:
            for address in self._addresses:
                try:
                    self._client = Client(address)
                    break
                except CdpError:
                    pass
            self._without = self._client is None
        return self._client

    def read(self, length: int, offset: int) -> bytes:
        with self._lock:
            client = self._connected()
            if client is not None:
                try:
                    return client.pread(length, offset)
                except CdpError:        # the other way says what is wrong, or does it
                    self._hang_up()
            return self._service().read(offset, length, at=self._at)

    def write(self, data: bytes, offset: int, fua: bool) -> None:
        with self._lock:
            client = self._connected()
            if client is None:
                self._service().write(offset, data, fua=fua)
                return
            try:
                client.pwrite(data, offset, fua=fua)
            except CdpError as error:
                self._hang_up()
                raise type(error)(f"{error.message}: {len(data)} bytes at {offset} may be written, or a part of them",
                                  f"{error.hint}; read them, or write them again") from None

    def hold(self) -> None:
        """Connect now: a moment that a connection shows is not given up."""
        with self._lock:
            self._connected()

    def hang_up(self) -> None:
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
