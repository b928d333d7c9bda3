"""The two ends of protecting a disk in place: taking one that was changed outside, and letting go of one.

look    what is known of such a disk and its history, before anything is decided
adopt   keeping the history: what others changed is recorded (cdp.volume.foreign_writes); or the folder of the volume is
        made anew beside its place and takes it in two renames, and the old one goes after that
detach  what a close does, plus the word that the disk is plain and where it is

Both want the volume for themselves: Busy while any process has it open.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cdp.settings import Settings, checked
from cdp.store import creation, layout
from cdp.store import description as geometries
from cdp.store import protected_disk as disks
from cdp.store.catalog import BookmarkRow, Segment, lmdb_catalog, lmdb_catalog_to_read
from cdp.store.image_formats import require_raw
from cdp.store.recovery import has_data
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdp.text.paths import absolute
from cdp.text.timestamps import utc
from cdp.volume import foreign_writes
from cdp.volume.foreign_writes import Changed, Progress
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError, Corruption, InvalidRequest, NotFound, RefusedPoint, Unavailable
from cdpcore.inplace.disk_state import DiskState
from cdpcore.system.os import Os, posix


def _protected(directory: str) -> geometries.Geometry:
    os, files = posix(), VolumeFiles(directory)
    if not os.exists(files.description):
        raise NotFound(f"{directory}: no such volume", "make one with 'cdp create'")
    geometry = geometries.load(os, files)
    if not geometry.before:
        raise InvalidRequest(f"{directory}: protects no disk in place", "only a volume made with --mode before does")
    return geometry


@dataclass(frozen=True)
class Found:
    """A protected disk that may have been changed outside.

    difference  how it differs from what the volume left; "" where it does not, or that cannot be said
    compared    size and samples are what they were
    may_keep    `keep_history` is possible: that, or the volume was not closed cleanly, so that it cannot be compared,
                and it is the very file that it was
    lost        what a new history would delete, in words; "" for nothing
    changed     what differs, where `compare` was asked for and the table of checksums says it; else None
    """

    disk: str
    difference: str
    compared: bool
    may_keep: bool
    lost: str
    changed: Changed | None = None


def look(path: str | Path, *, compare: bool = False, progress: Progress | None = None) -> Found:
    """What adopt() would find; `compare`: the whole disk is read. Changes nothing. Raises NotFound, Busy,
    InvalidRequest for a volume without such a disk."""
    os, directory = posix(), absolute(path)
    geometry, files = _protected(directory), VolumeFiles(directory)
    held = layout.lock(os, files)
    try:
        with disks.open_disk(os, geometry.disk, write=False) as file:
            now = disks.stamp(os, geometry.disk, file)
        try:
            was = disks.left(os, files)
        except CdpError as e:
            return Found(geometry.disk, e.message, False, False, history(os, files))
        changed = _compare(os, files, geometry, was, now, progress) if compare else None
        may = _same(was, now) or changed is not None and now.size_bytes >= was.size_bytes
        return Found(geometry.disk, was.differs(now), was.clean and _same(was, now), may, history(os, files), changed)
    finally:
        held.close()


def _same(was: disks.Stamp, now: disks.Stamp) -> bool:
    """As far as a description tells. Without a clean close the disk must be the very file: its content is not known."""
    return (was.size_bytes, was.samples_crc) == (now.size_bytes, now.samples_crc) if was.clean else not was.differs(now)


def adopt(path: str | Path, *, keep_history: bool = False, discard_history: bool = False,
          settings: Settings | None = None, image_format: str | None = None, changed: Changed | None = None,
          progress: Progress | None = None) -> Volume:
    """Take the disk of the volume at `path` as it is now, and open it: for a disk that was changed outside.

    The history so far does not fit the disk any more, but would fit the disk that it belongs to if that is put back:
    it is deleted, with its bookmarks, only with `discard_history`; without, RefusedPoint says what would be lost.
    `keep_history`: it goes on. Where the volume has the checksums of the disk's blocks, the disk is read (`changed`:
    what look() found so, which saves that), and the blocks that differ are recorded: what they held is not known, so
    reading it at moments before raises Corruption; `records()` has them as "foreign". Where it has not, the caller
    vouches that the disk holds what it held when the volume was closed (it was copied, moved or touched); Corruption
    where its size or samples of it differ, or, where the volume was not closed cleanly, it is another file.

    Raises NotFound, Busy, InvalidRequest for a volume without such a disk, or one that is now a qcow2 image or another
    container (`image_format` "raw" says that its own bytes are meant), RefusedPoint while writable images of the old
    history exist.
    """
    if keep_history and discard_history:
        raise InvalidRequest("a history is either kept or discarded", "give one of the two")
    os, directory = posix(), absolute(path)
    files = VolumeFiles(directory)
    fresh, old = f"{directory}.adopt-new", f"{directory}.adopt-old"     # names that nobody else gives
    if not os.exists(directory) and os.exists(old):     # a crash between the renames
        os.rename(old, directory)
    geometry = _protected(directory)
    if keep_history:
        _keep(os, files, geometry, Tuning.from_settings(checked(settings)), changed, progress)
        return Volume(directory, settings=settings)
    held = layout.lock(os, files)
    try:
        images = os.list_dir(files.images)
        if images:
            raise RefusedPoint(
                f"{directory}: {len(images)} writable images show the old history ({', '.join(images[:3])})",
                "copy from them what is needed ('cdp export' works while the disk is as it was), then remove "
                f"{files.images}/NAME")
        with disks.open_disk(os, geometry.disk) as disk:
            require_raw(geometry.disk, disk.pread, disk.size(), image_format)
        if not discard_history and (lost := history(os, files)):
            raise RefusedPoint(
                f"{directory}: a new history would delete {lost}",
                "put the disk back that it belongs to, and it is there again; where the content is the same after all "
                "(copied, moved, touched): --keep-history; to delete it: --discard-history")
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


def history(os: Os, files: VolumeFiles) -> str:
    """What the volume remembers, in words; "" for nothing. The volume cannot be opened: its catalog says it, and
    whether the log goes on behind that."""
    try:
        catalog = lmdb_catalog_to_read(files.directory)
        try:
            segments = sorted(catalog.rows(Segment), key=lambda s: s.first_seq)
            marks = [mark.name for mark in catalog.rows(BookmarkRow)]
        finally:
            catalog.close()
        last = segments[-1].number if segments else 0
        newer = any(number > last and has_data(os, files.segment(number))
                    for number in layout.segment_numbers(os, files))
    except CdpError as e:
        return f"its history, which cannot be read as it is ({e.message})"
    parts = []
    if segments:
        parts.append(f"the records up to #{segments[-1].last_seq}, of {utc(segments[0].first_ts_ns)} to "
                     f"{utc(segments[-1].last_ts_ns)}")
    if newer:
        parts.append("what was written last, before it was killed")
    if marks:
        more = f" and {len(marks) - 3} more" if len(marks) > 3 else ""
        parts.append(f"the bookmarks {', '.join(marks[:3])}{more}")
    return ", ".join(parts)


def _compare(os: Os, files: VolumeFiles, geometry: geometries.Geometry, was: disks.Stamp, now: disks.Stamp,
             progress: Progress | None) -> Changed | None:
    """None: nothing can be said. Nothing differs where the times say that nobody wrote to it, and no block that is
    known says otherwise."""
    if now.size_bytes < was.size_bytes:
        return None
    catalog = lmdb_catalog_to_read(files.directory)
    try:
        found = foreign_writes.compare(os, files, geometry, catalog, now, was.size_bytes, progress)
    finally:
        catalog.close()
    if found is not None and _same(was, now) and (
            not found.differ and 0 < now.mtime_ns == was.mtime_ns if was.clean else _left_alone(os, files, geometry)):
        return replace(found, differ=[], unknown=[])
    return found


def _left_alone(os: Os, files: VolumeFiles, geometry: geometries.Geometry) -> bool:
    """After a crash: nobody wrote to the disk, and that is known."""
    with disks.open_disk(os, geometry.disk, write=False) as file:
        state = DiskState(os, files.disk_state, bytes.fromhex(geometry.uuid), read_only=True)
        try:
            return 0 < file.changed_ns() <= state.changed_ns
        finally:
            state.close()


def _keep(os: Os, files: VolumeFiles, geometry: geometries.Geometry, tuning: Tuning, changed: Changed | None,
          progress: Progress | None) -> None:
    held = layout.lock(os, files)
    try:
        was = disks.left(os, files)
        with disks.open_disk(os, geometry.disk, write=False) as file:
            now = disks.stamp(os, geometry.disk, file)
        if changed is None or changed.now != now:
            changed = _compare(os, files, geometry, was, now, progress)
    finally:
        held.close()
    if changed is None or not (changed.lost_bytes or now.size_bytes != was.size_bytes or os.exists(files.disk_adopting)
                               or not was.clean and not _same(was, now)):
        _accept_as_it_is(os, files, geometry)
    else:
        foreign_writes.go_on(os, files, changed, tuning, lmdb_catalog)


def _accept_as_it_is(os: Os, files: VolumeFiles, geometry: geometries.Geometry) -> None:
    directory = files.directory
    held = layout.lock(os, files)
    try:
        was = disks.left(os, files)
        with disks.open_disk(os, geometry.disk) as file:
            now = disks.stamp(os, geometry.disk, file)
            # The very file, and somebody wrote to it: the caller says that it is the same.
            if not was.clean and not was.differs(now):
                state = DiskState(os, files.disk_state, bytes.fromhex(geometry.uuid))
                try:
                    state.watch(file)
                    state.note()
                finally:
                    state.close()
                return
        if not was.clean or not _same(was, now):
            raise Corruption(f"{geometry.disk}: its content is not what it was when {directory} was closed" if was.clean
                             else f"{directory}: was not closed cleanly, so its disk must be the very file that it was",
                             "put that back, or adopt it without --keep-history")
        disks.save(os, files, now)
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
