"""What a server of NBD exports is given: how names become exports, and what an export is."""
from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from cdpcore.nbd.connection import End

log = logging.getLogger("cdp.nbd")


class Transmission(Protocol):
    """Serves a connection once the handshake is over: cdpcore.nbd.connection.Connection, cdpcore.channel.gateway's."""

    def serve(self) -> End: ...
    def stop(self, *, now: bool = False) -> None: ...
    def pause(self) -> None: ...
    def rest(self) -> tuple[bytes, int]: ...
    def resume(self, received: bytes, skipped: int = 0, counters: Mapping[str, int] | None = None) -> None: ...
    def counters(self) -> dict[str, int]: ...


class Export(Protocol):
    """An open export, as a resolver hands it out; used by one connection and closed by it.

    capsule      PyCapsule named "cdpcore.target"; None where there is `connect`
    read_only    writes are refused with EPERM
    size_bytes   as the target's
    description  for a human, at most 4096 bytes are shown

    An export may also carry
    name         str: its canonical name where the client's was relative ("web@-10m" -> "web@#4711")
    multi_conn   bool, default True: False where two connections to this name may see different content
    fast_zero    bool, default True: zeroing costs less than writing zeros
    context      context(name) -> (canonical name, PyCapsule "cdpcore.map") of a metadata context besides
                 base:allocation, or None where there is none of that name; raises CdpError
    contexts     contexts() -> the names of those that are worth showing
    own_fua      bool, default False: the target gets a flush only where a client sent one, never for FUA
    connect      connect(sock, *, memory, who, contexts, read_only, structured, context_id, fast_zero) ->
                 Transmission, where requests do not go to a target in this process; memory: what the server's
                 connections share; who: the client, for people; contexts: (id, canonical name) of each metadata
                 context besides base:allocation
    """

    @property
    def capsule(self) -> object: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def description(self) -> str: ...
    def close(self) -> None: ...


class Resolver(Protocol):
    """Turns export names into exports. Called from many threads at once."""

    def list(self) -> Sequence[tuple[str, str]]:
        """(name, description) of what to show; names that are made up on the fly (points) need not be in it."""

    def open(self, name: str) -> Export:
        """Open for one connection. Raises CdpError, whose text the client gets.

        A resolver may also have resume(handed: cdp.nbd.handover.HandedConnection), to open what another server had
        open."""


def close_export(export: Export, name: str) -> None:
    """Close an export; a failure is the log's."""
    try:
        export.close()
    except Exception:
        log.exception("closing export %r", name)
