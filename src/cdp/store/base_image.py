"""Filling the base of a volume that has no history yet: straight into base.img, not through the log.

All or nothing, also where the process is killed. A new volume is made beside its place, with its base, and renamed when
it is complete. Into a volume that is there the file is filled under another name, synced and renamed, and volume.json
then says that there is a base; what a kill leaves of that, the next opening removes. Writers are refused meanwhile.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdp.store import description as geometries
from cdp.store.image_formats import require_raw
from cdp.store.layout import BASE
from cdpcore.base.errors import InvalidRequest
from cdpcore.system.os import Os

if TYPE_CHECKING:
    from cdp.store.store import Store

PIECE_BYTES = 8 << 20
BUILDING = f"{BASE}.creating"


@dataclass(frozen=True)
class Base:
    """Content for a base: read(offset, view) is called for each piece of `extents` (offset, length in bytes); all
    else is a hole. progress(bytes) is called after each piece. A qcow2 image or another container is refused, unless
    image_format is "raw"."""

    read: Callable[[int, memoryview], None]
    extents: Iterable[tuple[int, int]]
    progress: Callable[[int], None] | None = None
    image_format: str | None = None


def fill(os: Os, directory: str, size_bytes: int, base: Base) -> None:
    """Make directory/base.img, whole and synced, or not at all; the name is durable with the directory."""
    building = f"{directory}/{BUILDING}"
    if os.exists(building):
        os.unlink(building)
    buffer = memoryview(bytearray(PIECE_BYTES))
    try:
        with os.open(building, write=True, create=True) as file:
            file.truncate(size_bytes)
            for offset, length in base.extents:
                if offset < 0 or length < 0 or offset + length > size_bytes:
                    raise InvalidRequest(f"import of {length} bytes at {offset}", f"the volume has {size_bytes} bytes")
                for at in range(offset, offset + length, PIECE_BYTES):
                    piece = buffer[: min(PIECE_BYTES, offset + length - at)]
                    base.read(at, piece)
                    file.pwrite(piece, at)
                    if base.progress:
                        base.progress(len(piece))
            require_raw("the content", file.pread, size_bytes, base.image_format,
                        "make a raw disk of it first, with 'qemu-img convert -O raw'")
            file.datasync()
    except BaseException:
        os.unlink(building)
        raise
    os.rename(building, f"{directory}/{BASE}")


def import_base(store: Store, base: Base) -> None:
    """See Volume.import_base; under the volume's lock."""
    store.check_folder()          # what is made by path must not end up in another volume
    store.log.hold("import")    # who writes before this line is seen by the next one
    try:
        if store.core.position()[0] or store.geometry.base != "none":
            raise InvalidRequest(f"{store.directory}: has content already",
                                 "write to it instead: the import becomes part of its history")
        fill(store.os, store.directory, store.geometry.size_bytes, base)
        store.os.sync_dir(store.directory)
        geometry = dataclasses.replace(store.geometry, base="file")
        geometries.save(store.os, store.directory, geometry)
        store.geometry = geometry
        store.kind.set_base(f"{store.directory}/{BASE}")
    finally:
        store.log.hold("import", False)
