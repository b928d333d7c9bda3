"""Making a volume: complete, or not there.

It is built beside its place, in VOLUME.creating, and renamed, so a crash leaves no half volume under the name; what a
killed creation left is removed by the next one.
"""
from __future__ import annotations

import uuid as uuid_module
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote

from cdp.store import description as geometries
from cdp.store import kinds
from cdp.store import protected_disk as disks
from cdp.store.base_image import Base, fill
from cdp.store.catalog import CatalogFactory, lmdb_catalog
from cdp.store.description import Geometry
from cdp.store.disk_watch import DiskWatch
from cdp.store.image_formats import require_raw
from cdp.store.layout import remove_tree
from cdp.store.tuning import Tuning
from cdp.store.volume_files import CREATING, VolumeFiles
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound, Unavailable
from cdpcore.system.os import File, Os, PosixOs, posix

MAX_SIZE_BYTES = 1 << 56
_FILES = VolumeFiles("")
_FOLDERS = [path[1:] for path in (_FILES.log, _FILES.runs, _FILES.images)]
_MADE = frozenset([     # beside the catalog, all that a creation makes; the first opening adds more
    *_FOLDERS, *(f"{path[1:]}{end}" for end in ("", ".tmp") for path in (
        _FILES.lock, _FILES.description, _FILES.base, _FILES.base_creating, _FILES.base_sums,
        _FILES.base_sums_creating, _FILES.disk_state))])


def check_size(size: int, disk: str = "") -> None:
    """Raises InvalidRequest. `disk`: whose size it is."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise InvalidRequest(f"size {size!r} is not a number of bytes", "give it as a whole number")
    if disk and size == 0:
        raise InvalidRequest(f"{disk}: is empty", "give a raw disk image or a block device; "
                             "'cdp create VOLUME --size' makes an empty volume")
    if disk and size % 512:
        up = -(-size // 512) * 512
        raise InvalidRequest(f"{disk}: {size} bytes, which is no multiple of 512",
                             f"enlarge it to {up} bytes: truncate -s {up} {quote(disk)}")
    if size <= 0 or size % 512 or size > MAX_SIZE_BYTES:
        raise InvalidRequest(f"size {size} bytes", f"give a multiple of 512 from 512 to {MAX_SIZE_BYTES} (64 PiB)")


def create(directory: str, size: int, tuning: Tuning, *, os: Os | None = None, catalog: CatalogFactory = lmdb_catalog,
           parent: Geometry | None = None, parent_at: tuple[int, int] = (0, 0), base: Base | None = None,
           disk: str = "", image_format: str | None = None) -> Geometry:
    """Make VOLUME: complete, or not there. `parent_at` (seq, ts_ns) of `parent`, for a writable image; `base`: its
    content; `disk`: of before-images, the absolute path of the disk to protect in place, which gives the size, and
    must be raw, or meant to be taken so by `image_format` "raw"."""
    os = os or posix()
    if disk:
        with disks.open_disk(os, disk) as file:
            if isinstance(os, PosixOs):
                DiskWatch(disk).close()     # Busy, where another volume has what lies beneath it
            size = file.size()
            require_raw(disk, file.pread, size, image_format)
        if disk.startswith(f"{directory}/"):
            raise InvalidRequest(f"{disk}: lies in the folder that is to become the volume",
                                 "choose another folder for the volume")
    later = base is not None and base.size_bytes is not None and not size
    if not later:
        check_size(size, disk)
    if os.exists(directory):
        raise InvalidRequest(f"{directory}: exists already", "choose another name, or remove it first")
    above = next((p for p in Path(directory).parents if os.exists(VolumeFiles(str(p)).description)), None)
    if above is not None and parent is None:
        raise InvalidRequest(f"{directory}: is inside the volume {above}",
                             "choose a place outside; 'cdp image create' makes images")
    # Built beside its place and renamed, so that a crash leaves no half volume under the name.
    building = f"{directory}{CREATING}"
    files = VolumeFiles(building)
    held: File | None = _begin(os, directory, files)
    geometry = Geometry(uuid_module.uuid4().hex, size, os.now_ns(), tuning.segment_bytes,
                        "parent" if parent else "disk" if disk else "file" if base else "none",
                        parent_at[0], parent_at[1], parent.uuid if parent else "", 2 if disk else 1, disk)
    try:
        for folder in (files.log, files.runs, files.images):
            os.mkdir(folder)
        if base:
            fill(os, files, bytes.fromhex(geometry.uuid), size, base)
        if base and base.size_bytes and later:
            size = base.size_bytes()
            check_size(size)
            geometry = replace(geometry, size_bytes=size)
        geometries.save(os, files, geometry)
        kinds.of(os, files, geometry).create()
        catalog(building, True).close()
        os.sync_dir(building)
        os.rename(building, directory)
        os.sync_dir(str(Path(directory).parent))
    except BaseException:
        if os.exists(building):
            remove_tree(os, building)
        raise
    finally:
        if held:
            held.close()
    return geometry


def _begin(os: Os, directory: str, files: VolumeFiles) -> File:
    """The folder in which the volume is made, empty, and its lock. Only what a killed creation left is removed for
    it."""
    building, lock_name = files.directory, files.lock.rpartition("/")[2]
    if os.exists(building):
        _check_interrupted(os, files)
    else:
        try:
            os.mkdir(building)
        except NotFound:
            if os.exists(str(Path(directory).parent)):
                raise Unavailable(f"{directory}: nothing can be made in that folder", "choose another path") from None
            raise NotFound(f"{directory}: its folder does not exist", "create the folder first") from None
        except Unavailable:
            if not os.exists(building):
                raise
            # else another process was faster: the lock decides
    busy = Busy(f"{building}: another process is making this volume", "wait for it, or take another name")
    try:
        if not os.exists(files.lock):
            try:
                os.open(files.lock, write=True, create=True).close()
            except Unavailable:
                if not os.exists(files.lock):
                    raise
        held = os.open(files.lock, write=True)
    except NotFound:
        raise busy from None
    try:
        held.lock()
        if os.exists(directory):    # made while we were on our way here
            with suppress(CdpError):
                if os.list_dir(building) == [lock_name]:
                    remove_tree(os, building)
            raise InvalidRequest(f"{directory}: exists already", "choose another name, or remove it first")
        for name in os.list_dir(building):
            if name != lock_name:
                remove_tree(os, f"{building}/{name}")
    except (Busy, NotFound):
        held.close()
        raise busy from None
    except BaseException:
        held.close()
        raise
    return held


def _check_interrupted(os: Os, files: VolumeFiles) -> None:
    """Raises InvalidRequest where the folder is not what a killed creation left: somebody's own, or a volume that was
    in use."""
    try:
        names = os.list_dir(files.directory)
        foreign = any(name not in _MADE and not name.startswith("catalog.") for name in names)
        foreign = foreign or os.exists(files.log) and bool(os.list_dir(files.log))
    except CdpError:
        foreign = True      # not a folder
    if foreign:
        raise InvalidRequest(f"{files.directory}: exists, and the volume would be made there first",
                             "move it away, or choose another name")
