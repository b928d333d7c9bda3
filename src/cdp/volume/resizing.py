"""A volume made larger; or smaller, where nothing was ever beyond.

Only volume.json changes, and the length of base.img: first what is longer, so that after a crash in between the base
may be longer than the volume, and never shorter. What a moment of before shows beyond its end reads as zeros. Writable
images keep the size that they were made with.

The volume is wanted alone: Busy while any process has it open. Any thread.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cdp.moments.records import matching
from cdp.settings import Settings
from cdp.store import creation, layout
from cdp.store import description as geometries
from cdp.store.volume_files import VolumeFiles, is_complete
from cdp.text.paths import absolute
from cdp.volume.volume import Volume
from cdpcore.base.errors import InvalidRequest, RefusedPoint
from cdpcore.system.os import posix


def resize(path: str | Path, size_bytes: int, *, shrink: bool = False, settings: Settings | None = None) -> int:
    """Give the volume at `path` another size, a multiple of 512; the size before. `shrink`: it may become smaller.

    Raises NotFound, Busy, InvalidRequest (the size, a volume with a protected disk, an image), RefusedPoint where a
    smaller one would lose history.
    """
    directory = absolute(path)
    creation.check_size(size_bytes)
    with Volume(directory, settings=settings) as volume:        # recovers, too
        before = volume.size_bytes
        if disk := volume.geometry().disk:
            raise InvalidRequest(f"{directory}: its size is that of the disk {disk}",
                                 "make that larger while the volume is closed, then 'cdp adopt' it")
        if volume.parent:
            raise InvalidRequest(f"{directory} is a writable image", "it has the size of its volume when it was made")
        if size_bytes < before:
            _check_nothing_beyond(volume, size_bytes, shrink)
    if size_bytes != before:
        _put(directory, size_bytes)
    return before


def _check_nothing_beyond(volume: Volume, size_bytes: int, shrink: bool) -> None:
    if not shrink:
        raise InvalidRequest(f"{volume.path} has {volume.size_bytes} bytes, {size_bytes} is less",
                             "say that it is to shrink, with --shrink")
    beyond = size_bytes, volume.size_bytes - size_bytes
    for rows in volume.iter_records():
        found = matching(rows, (), beyond)
        if len(found):
            raise RefusedPoint(f"{volume.path}: record #{found['seq'][0]} is about bytes beyond {size_bytes}, which "
                               "would be lost with what came later", "copy what is needed into a new volume")
    for extent in volume.extents(*beyond, at=volume.window().oldest.seq):
        if extent.kind != "hole":
            raise RefusedPoint(f"{volume.path}: there is data at byte {extent.offset} at its oldest moment",
                               "copy what is needed into a new volume")
    if any(is_complete(name) for name in posix().list_dir(VolumeFiles(volume.path).images)):
        raise RefusedPoint(f"{volume.path}: it has writable images, which are as large as it is",
                           "delete them first, with 'cdp image delete'")


def _put(directory: str, size_bytes: int) -> None:
    os, files = posix(), VolumeFiles(directory)
    held = layout.lock(os, files)
    try:
        geometry = geometries.load(os, files)
        larger = size_bytes > geometry.size_bytes
        for step in ("base", "description") if larger else ("description", "base"):
            if step == "description":
                geometries.save(os, files, replace(geometry, size_bytes=size_bytes))
            elif geometry.base == "file":
                with os.open(files.base, write=True) as file:
                    file.truncate(size_bytes)
                    file.datasync()
    finally:
        held.close()
