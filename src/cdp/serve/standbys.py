"""The standbys of a server's volumes: where they connect, and how far they have come.

Threading: attach(), start() and close() by the server's thread.
"""
from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cdp.settings import Settings, parse_address
from cdpcore.base.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from cdp import Volume
    from cdp.service.local import VolumeService
    from cdp.standby.listener import StandbyListener
    from cdp.standby.standing import Standing


class Standbys:
    """Of a server with these settings; without an address to listen at it does nothing. tls: the server's; names: of
    its volumes; parts: what ends with the server. Raises Busy, InvalidRequest, NotFound, Unavailable where it cannot
    listen."""

    def __init__(self, settings: Settings, tls: Any, names: Collection[str], parts: ExitStack):
        self._listener: StandbyListener | None = None
        self._volumes: dict[str, Volume] = {}
        self._standings: dict[str, Standing] = {}
        parts.callback(self.close)
        addresses = self._addresses(settings)
        if addresses:
            from cdp.standby.listener import StandbyListener

            self._listener = StandbyListener(addresses, self._volumes, self._standings, tls.context(), names)

    @staticmethod
    def _addresses(settings: Settings) -> list[Any]:
        if not settings.standby_listen and not settings.standby_socket:
            return []
        from cdp.nbd import TcpAddress, UnixAddress

        found: list[Any] = []
        if settings.standby_listen:
            found.append(TcpAddress(*parse_address(settings.standby_listen)))
        if settings.standby_socket:
            folder = os.path.dirname(os.path.abspath(settings.standby_socket))
            if not os.path.isdir(folder):
                raise NotFound(f"{settings.standby_socket}: no such folder", "make it first")
            if settings.standby_socket in (settings.unix_socket, settings.admin_socket):
                raise InvalidRequest(f"{settings.standby_socket}: is another socket of this server",
                                     "give --standby-socket another path")
            found.append(UnixAddress(settings.standby_socket))
        return found

    def attach(self, name: str, service: VolumeService) -> None:
        """The volume of `service` is served, and may have a standby from now on; `service` says how far that is."""
        volume = service.volume
        if self._listener is None or volume.read_only:
            return
        if self._volumes.get(name) is not volume:
            from cdp.standby.standing import Standing

            self._standings[name] = Standing(volume)
            self._volumes[name] = volume
        service.standby = self._standings[name].view
        service.forget_standby = self._standings[name].forget

    @property
    def addresses(self) -> list[str]:
        return self._listener.addresses if self._listener else []

    def start(self) -> None:
        if self._listener is not None:
            self._listener.start()

    def close(self) -> None:
        """No standby is connected at return; the volumes may be closed."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            for standing in self._standings.values():
                standing.close()
