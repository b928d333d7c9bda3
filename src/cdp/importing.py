"""Filling the base of a new volume: straight into base.img, not through the log.

All or nothing: the file is written under another name, synced and renamed, and volume.json then says that there is a
base; a crash before that leaves the volume empty.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from cdpcore.errors import InvalidRequest

from . import geometry as geometries

if TYPE_CHECKING:
    from .store import Store

PIECE_BYTES = 8 << 20


def import_base(store: Store, read: Callable[[int, memoryview], None], extents: Iterable[tuple[int, int]],
                progress: Callable[[int], None] | None) -> None:
    """See Volume.import_base; under the volume's lock."""
    if store.core.position()[0] or store.geometry.base != "none":
        raise InvalidRequest(f"{store.directory}: has content already", "write to it instead: the import becomes part of its history")
    target = f"{store.directory}/base.img"
    building = f"{target}.creating"
    if store.os.exists(building):
        store.os.unlink(building)
    buffer = memoryview(bytearray(PIECE_BYTES))
    try:
        with store.os.open(building, write=True, create=True) as file:
            file.truncate(store.geometry.size_bytes)
            for offset, length in extents:
                if offset < 0 or length < 0 or offset + length > store.geometry.size_bytes:
                    raise InvalidRequest(f"import of {length} bytes at {offset}", f"the volume has {store.geometry.size_bytes} bytes")
                for at in range(offset, offset + length, PIECE_BYTES):
                    piece = buffer[: min(PIECE_BYTES, offset + length - at)]
                    read(at, piece)
                    file.pwrite(piece, at)
                    if progress:
                        progress(len(piece))
            file.datasync()
    except BaseException:
        store.os.unlink(building)
        raise
    store.os.rename(building, target)
    store.os.sync_dir(store.directory)
    store.geometry = dataclasses.replace(store.geometry, base="file")
    geometries.save(store.os, store.directory, store.geometry)
