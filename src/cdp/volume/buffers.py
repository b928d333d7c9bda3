"""What the methods of volumes and time images have in common: byte counts, buffers, extents.

Any thread.
"""
from __future__ import annotations

import numbers
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from cdp.moments.model import Extent
from cdpcore.base.errors import InvalidRequest
from cdpcore.index.view import View

Item = TypeVar("Item")
KINDS = {0: "data", 1: "zero", 2: "hole", 3: "unknown"}


def byte_count(value: int, bound: int = (1 << 63) - 1) -> int:
    """`value` as a number of bytes from 0 to `bound`. Raises InvalidRequest."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidRequest(f"{value!r} is not a number of bytes", "give offset and length as whole numbers")
    if not 0 <= value <= bound:
        raise InvalidRequest(f"{value} bytes", f"use 0 to {bound}")
    return int(value)


def bytes_of(buffer: Any, fill: bool = False) -> Any:
    """Any contiguous buffer as bytes, not copied; to `fill`: it must be writable."""
    try:
        view = memoryview(buffer)
        # Of objects and pointers the bytes are addresses in this process. A struct's field names stand between colons.
        if view.format and set("OP&X") & set(re.sub(":[^:]*:", "", view.format)):
            raise InvalidRequest("a buffer of objects or pointers: its bytes are addresses in memory, not content",
                                 "pass the content: bytes, or an array of numbers")
        if fill and view.readonly:
            raise InvalidRequest("a buffer that is read-only cannot be filled", "pass a bytearray, or a writable array")
        if view.nbytes == 0 and view.c_contiguous:
            return memoryview(bytearray())
        return view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")
    except (TypeError, ValueError, BufferError) as e:
        raise InvalidRequest(f"not a contiguous buffer: {e}",
                             "pass bytes, a bytearray, a memoryview or a contiguous array") from None


def keep(owner: object, items: Iterator[Item]) -> Iterator[Item]:
    """`items`; `owner` is kept from being collected, and so closed, while they are read."""
    yield from items


def extents_of(core: Any, view: View | None, size_bytes: int, offset: int, length: int | None,
               owner: object) -> Iterator[Extent]:
    """Adjacent extents of a range, in order; those of one kind that the core gives apart are joined. `owner`: as for
    keep()."""
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

    return keep(owner, walk(at))


def limited(batches: Iterator[Any], limit: int | None) -> Iterator[Any]:
    """Until there are `limit` rows."""
    count = 0
    for batch in batches:
        yield batch
        count += len(batch)
        if limit is not None and count >= limit:
            return
