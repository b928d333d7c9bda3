"""The two ends of protecting a disk in place: beginning anew with a disk that was changed outside, and letting go of
one.

adopt   the folder of the volume is made anew beside its place and takes it in two renames; the old one goes after that
detach  what a close does, plus the word that the disk is plain and where it is

Both want the volume for themselves: Busy while any process has it open.
"""
from __future__ import annotations

from pathlib import Path

from cdp.settings import Settings, checked
from cdp.store import creation, layout
from cdp.store import description as geometries
from cdp.store import protected_disk as disks
from cdp.store.tuning import Tuning
from cdp.text.paths import absolute
from cdp.volume.volume import Volume
from cdpcore.base.errors import Corruption, InvalidRequest, NotFound, RefusedPoint, Unavailable
from cdpcore.inplace.disk_state import DiskState
from cdpcore.system.os import Os, posix


def _protected(directory: str) -> geometries.Geometry:
    os = posix()
    if not os.exists(f"{directory}/{geometries.NAME}"):
        raise NotFound(f"{directory}: no such volume", "make one with 'cdp create'")
    geometry = geometries.load(os, directory)
    if not geometry.before:
        raise InvalidRequest(f"{directory}: protects no disk in place", "only a volume made with --mode before does")
    return geometry


def adopt(path: str | Path, *, keep_history: bool = False, settings: Settings | None = None,
          image_format: str | None = None) -> Volume:
    """Begin a new history with the disk of the volume at `path` as it is now, and open it: for a disk that was changed
    outside.

    The history so far does not fit the disk any more and is deleted, with its bookmarks. `keep_history`: the caller
    vouches that the disk holds what it held when the volume was closed (it was copied, moved or touched), and nothing
    is deleted; Corruption where its size or samples of it differ, or, where the volume was not closed cleanly, it is
    another file. Raises NotFound, Busy, InvalidRequest for a volume without such a disk, or one that is now a qcow2
    image or another container (`image_format` "raw" says that its own bytes are meant), RefusedPoint while writable
    images of the old history exist.
    """
    os, directory = posix(), absolute(path)
    fresh, old = f"{directory}.adopt-new", f"{directory}.adopt-old"     # names that nobody else gives
    if not os.exists(directory) and os.exists(old):     # a crash between the renames
        os.rename(old, directory)
    geometry = _protected(directory)
    if keep_history:
        _vouched(os, directory, geometry)
        return Volume(directory, settings=settings)
    held = layout.lock(os, directory)
    try:
        images = os.list_dir(f"{directory}/images")
        if images:
            raise RefusedPoint(f"{directory}: {len(images)} writable images show the old history "
                               f"({', '.join(images[:3])})",
                               "copy from them what is needed ('cdp export' works while the disk is as it was), then "
                               f"remove {directory}/images/NAME")
        for leftover in (fresh, old):
            if os.exists(leftover):
                layout.remove_tree(os, leftover)
        creation.create(fresh, 0, Tuning.from_settings(checked(settings)), disk=geometry.disk,
                        image_format=image_format)
        os.rename(directory, old)
        os.rename(fresh, directory)
        os.sync_dir(str(Path(directory).parent))
        layout.remove_tree(os, old)
    finally:
        held.close()
    return Volume(directory, settings=settings)


def _vouched(os: Os, directory: str, geometry: geometries.Geometry) -> None:
    held = layout.lock(os, directory)
    try:
        was = disks.left(os, directory)
        with disks.open_disk(os, geometry.disk) as file:
            now = disks.stamp(os, geometry.disk, file)
            # the very file, and somebody wrote to it: the caller says that it is the same
            if not was.clean and not was.differs(now):
                state = DiskState(os, f"{directory}/{disks.STATE}", bytes.fromhex(geometry.uuid))
                try:
                    state.watch(file)
                    state.note()
                finally:
                    state.close()
                return
        if not was.clean or (was.size_bytes, was.samples_crc) != (now.size_bytes, now.samples_crc):
            raise Corruption(f"{geometry.disk}: its content is not what it was when {directory} was closed" if was.clean
                             else f"{directory}: was not closed cleanly, so its disk must be the very file that it was",
                             "put that back, or adopt it without --keep-history")
        disks.save(os, directory, now)
    finally:
        held.close()


def detach(path: str | Path, *, settings: Settings | None = None) -> str:
    """End the protection of a disk for now: what a restore has not put on it yet is written, all is durable, and the
    disk is a plain raw disk with the current content. Returns its path. The history stays, and fits as long as nobody
    writes to the disk.

    Raises NotFound, Busy, InvalidRequest, Corruption, Unavailable where the disk could not be brought there.
    """
    directory = absolute(path)
    geometry = _protected(directory)
    volume = Volume(directory, settings=settings)
    volume.close()
    if volume.writeback is not None and volume.writeback.unfinished:
        raise Unavailable(f"{geometry.disk}: is not what {directory} shows: a restore could not be written back "
                          f"({volume.writeback.unfinished})",
                          "remove the cause and detach again; until then the content is right only through the volume")
    return geometry.disk
