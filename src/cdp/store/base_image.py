"""Filling the base of a volume that has no history yet: straight into base.img, not through the log.

All or nothing, also where the process is killed. A new volume is made beside its place, with its base, and renamed when
it is complete. Into a volume that is there the file is filled under another name, synced and renamed, and volume.json
then says that there is a base; what a kill leaves of that, the next opening removes. Writers are refused meanwhile.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cdp.store.image_formats import require_raw
from cdp.volume_files import VolumeFiles
from cdpcore.base.errors import InvalidRequest
from cdpcore.system.os import Os

PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class Base:
    """Content for a base: read(offset, view) is called for each piece of `extents` (offset, length in bytes); all
    else is a hole. progress(bytes) is called after each piece. A qcow2 image or another container is refused, unless
    image_format is "raw"."""

    read: Callable[[int, memoryview], None]
    extents: Iterable[tuple[int, int]]
    progress: Callable[[int], None] | None = None
    image_format: str | None = None


def fill(os: Os, files: VolumeFiles, size_bytes: int, base: Base) -> None:
    """Make base.img, whole and synced, or not at all; the name is durable with the directory."""
    building = files.base_creating
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
    os.rename(building, files.base)
