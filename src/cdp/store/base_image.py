"""Filling the base of a volume that has no history yet: straight into base.img, not through the log.

All or nothing, also where the process is killed. A new volume is made beside its place, with its base, and renamed when
it is complete. Into a volume that is there the file is filled under another name, synced and renamed, and volume.json
then says that there is a base; what a kill leaves of that, the next opening removes. Writers are refused meanwhile.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cdp.store.image_formats import require_raw
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import InvalidRequest
from cdpcore.log.sums_file import SumsWriter
from cdpcore.system.os import Os

PIECE_BYTES = 8 << 20
MOST_BYTES = (1 << 63) - 1


@dataclass(frozen=True)
class Base:
    """Content for a base: read(offset, view) is called for each piece of `extents` (offset, length in bytes); all
    else is a hole. progress(bytes) is called after each piece. A qcow2 image or another container is refused, unless
    image_format is "raw". size_bytes() is asked after the last piece for the size of a volume that is made without
    one."""

    read: Callable[[int, memoryview], None]
    extents: Iterable[tuple[int, int]]
    progress: Callable[[int], None] | None = None
    image_format: str | None = None
    size_bytes: Callable[[], int] | None = None


def make_empty(os: Os, files: VolumeFiles, size_bytes: int) -> None:
    """Make base.img, all holes; the name is durable with the directory. What an interrupted call left is replaced."""
    building = files.base_creating
    if os.exists(building):
        os.unlink(building)
    with os.open(building, write=True, create=True) as file:
        file.truncate(size_bytes)
        file.datasync()
    os.rename(building, files.base)


def fill(os: Os, files: VolumeFiles, uuid: bytes, size_bytes: int, base: Base) -> None:
    """Make base.img and its checksums, whole and synced, or not at all; the names are durable with the directory.
    size_bytes 0: as base.size_bytes says."""
    building, table = files.base_creating, files.base_sums_creating
    remove(os, building, table)
    buffer = memoryview(bytearray(PIECE_BYTES))
    try:
        with os.open(building, write=True, create=True) as file, os.open(table, write=True, create=True) as summed:
            sums = SumsWriter(summed, uuid, 0, base_salt(uuid), file)
            most_bytes = size_bytes or MOST_BYTES
            for offset, length in base.extents:
                if offset < 0 or length < 0 or offset + length > most_bytes:
                    raise InvalidRequest(f"import of {length} bytes at {offset}", f"the volume has {size_bytes} bytes")
                for at in range(offset, offset + length, PIECE_BYTES):
                    piece = buffer[: min(PIECE_BYTES, offset + length - at)]
                    base.read(at, piece)
                    file.pwrite(piece, at)
                    sums.put(at, piece)
                    if base.progress:
                        base.progress(len(piece))
            if not size_bytes and base.size_bytes:
                size_bytes = base.size_bytes()
            file.truncate(size_bytes)
            require_raw("the content", file.pread, size_bytes, base.image_format,
                        "make a raw disk of it first, with 'qemu-img convert -O raw'")
            file.datasync()
            sums.finish(size_bytes)
    except BaseException:
        remove(os, building, table)
        raise
    os.rename(table, files.base_sums)
    os.rename(building, files.base)


def base_salt(uuid: bytes) -> int:
    """Of the table of checksums of a volume's base."""
    return int.from_bytes(uuid[:8], "little")


def remove(os: Os, *paths: str) -> None:
    """Those that are there."""
    for path in paths:
        if os.exists(path):
            os.unlink(path)
