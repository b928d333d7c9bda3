"""A volume as of a moment: a read-only virtual disk; and what its methods and the volume's have in common.

Threading: any thread. A time image is valid until it or its volume is closed.
"""
from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cdp.moments.model import Extent, Moment
from cdpcore.base.errors import Closed, InvalidRequest
from cdpcore.index.view import View
from cdpcore.volume.volume_target import Target

if TYPE_CHECKING:
    from cdp.volume.volume import Volume

KINDS = {0: "data", 1: "zero", 2: "hole"}


class TimeImage:
    """A volume as of a moment: a read-only virtual disk. A context manager; any thread. Valid until close() or the volume's."""

    def __init__(self, volume: Volume, moment: Moment, view: View):
        self.volume = volume
        self.moment = moment
        self.size_bytes = volume.size_bytes
        self._view: View | None = view

    @property
    def closed(self) -> bool:
        return self._view is None

    def _open_view(self) -> View:
        if self._view is None:
            raise Closed(f"{self.volume.path}: the time image of #{self.moment.seq} is closed")
        return self._view

    def pread(self, length: int, offset: int) -> bytes:
        """As Volume.pread, of this moment."""
        view = self._open_view()
        out = bytearray(byte_count(length, self.size_bytes))
        self.volume._core.pread_into(out, byte_count(offset), view)
        return bytes(out)

    def pread_into(self, buffer: Any, offset: int) -> None:
        """As Volume.pread_into, of this moment."""
        self.volume._core.pread_into(bytes_of(buffer), byte_count(offset), self._open_view())

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """As Volume.extents, of this moment."""
        return extents_of(self.volume._core, self._open_view(), self.size_bytes, offset, length)

    def target(self) -> Any:
        """As Volume.target; read-only."""
        return Target(self.volume._core, self._open_view(), self).capsule()

    def close(self) -> None:
        self._view = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<cdp.TimeImage {self.volume.path}@#{self.moment.seq}{' closed' if self.closed else ''}>"


def byte_count(value: int, bound: int = (1 << 63) - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InvalidRequest(f"{value!r} is not a number of bytes", "give offset and length as whole numbers")
    if not 0 <= value <= bound:
        raise InvalidRequest(f"{value} bytes", f"use 0 to {bound}")
    return int(value)


def bytes_of(buffer: Any) -> Any:
    """Any contiguous buffer as bytes, not copied."""
    try:
        view = memoryview(buffer)
        return view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")
    except TypeError as e:
        raise InvalidRequest(f"not a contiguous buffer: {e}", "pass bytes, a bytearray, a memoryview or a contiguous array") from None


def extents_of(core: Any, view: View | None, size_bytes: int, offset: int, length: int | None) -> Iterator[Extent]:
    at, end = byte_count(offset), size_bytes if length is None else byte_count(offset) + byte_count(length)
    if end > size_bytes or at > end:
        raise InvalidRequest(f"extents of {at}..{end}", f"the volume has {size_bytes} bytes")

    def walk(at: int) -> Iterator[Extent]:
        held: Extent | None = None
        while at < end:
            for start, n, kind in core.extents(at, end - at, view):
                if held and held.kind == KINDS[kind]:
                    held = Extent(held.offset, held.length + n, held.kind)
                else:
                    if held:
                        yield held
                    held = Extent(start, n, KINDS[kind])
                at = start + n
        if held:
            yield held

    return walk(at)
