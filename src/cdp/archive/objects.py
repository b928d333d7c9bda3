"""What an archive needs of a store of objects, and how a store says what came of a request.

Names are paths without a leading slash. Every method is one request, or fails; any of them may raise Unavailable: the
request was not carried out, or may have been, or will be later. Safe to call from several threads.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from cdpcore.base.errors import CdpError


class Conflict(CdpError):
    """There is an object of that name already, or it was changed since: nothing was written. Or this very request was
    carried out before, and its answer lost."""

    exit_code = 6
    nbd_errno = 16


class ObjectStore(Protocol):
    """url: where it is, for people."""

    url: str

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | None:
        """The content, or `length` bytes of it from `offset` on; None: there is no such object. Fewer bytes: it ends
        there."""

    def tagged(self, name: str) -> tuple[bytes, str] | None:
        """The content, and a tag that another content of that name does not have."""

    def create(self, name: str, data: bytes) -> None:
        """Durable at return. Raises Conflict where there is one."""

    def replace(self, name: str, data: bytes, tag: str) -> None:
        """Durable at return. Raises Conflict where the object is not the one with that tag."""

    def names(self, folder: str) -> Iterator[str]:
        """All names that begin with `folder`, which ends with a slash; ascending."""

    def delete(self, name: str) -> None:
        """It need not be there."""
