"""What is not known since others changed a protected disk: the moments of which, for the message of a failed read."""
from __future__ import annotations

from typing import Any

from cdp.moments.records import FOREIGN
from cdp.volume.buffers import extents_of
from cdpcore.base.errors import CdpError, Corruption
from cdpcore.index.view import View

SECTOR_BYTES = 512


def explained(error: Corruption, volume: Any, view: View, seq: int, offset: int, length: int) -> Corruption:
    """Of a read of [offset, offset + length) at moment `seq` that failed: the error itself, or, where the range has
    something that is not known, one that names the moments. volume: a cdp.volume.volume.Volume."""
    store = volume._store
    if not store.geometry.may_lack_content:
        return error
    try:
        for extent in extents_of(store.core, view, store.geometry.size_bytes, offset, length, volume):
            if extent.kind == "unknown":
                return _named(volume, seq, extent.offset, extent.length)
    except CdpError:
        pass        # the error that was found first counts
    return error


def _named(volume: Any, seq: int, offset: int, length: int) -> Corruption:
    """`offset`, `length`: a range that is not known. Its first sector stands for it."""
    oldest = volume.window().oldest.seq
    rows = [(int(row["seq"]), int(row["kind"])) for row in volume.history(offset, SECTOR_BYTES)]
    foreign = min((n for n, kind in rows if kind == FOREIGN and n > seq), default=None)
    since = max((n for n, _ in rows if n <= seq), default=oldest)
    at = f"at the moments #{since} to #{foreign - 1}" if foreign is not None else f"at #{seq}"
    return Corruption(f"bytes {offset} to {offset + length - 1} are not known {at}: others changed the disk outside cdp"
                      + (f" before #{foreign}" if foreign is not None else ""),
                      "other moments and other bytes are not affected; 'cdp records --kind foreign' lists what is")
