"""A volume deleted: its folder takes another name, which no command finds, and is removed. A protected disk stays, with
the current content.

The volume is wanted alone: Busy while any process has it open. Any thread.
"""
from __future__ import annotations

import os as _os
from contextlib import suppress
from pathlib import Path

from cdp.settings import Settings
from cdp.store import description as geometries
from cdp.store import layout
from cdp.store.volume_files import DELETED, VolumeFiles, is_complete
from cdp.text.paths import absolute
from cdp.volume.adopt import detach, history
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound, RefusedPoint
from cdpcore.system.os import posix


def what_is_lost(path: str | Path) -> str:
    """What deleting the volume loses, in words; "" for nothing. Raises NotFound, RefusedPoint while it has images,
    InvalidRequest where somebody's own files are in its folder."""
    os, files = posix(), VolumeFiles(_folder(path))
    images = [name for name in os.list_dir(files.images) if is_complete(name)] if os.exists(files.images) else []
    if images:
        raise RefusedPoint(f"{files.directory}: {len(images)} writable images show its history "
                           f"({', '.join(images[:3])})", "delete them first, with 'cdp image delete'")
    others = [name for name in os.list_dir(files.directory) if not files.is_own(name)]
    if others:
        raise InvalidRequest(f"{files.directory}: there is more in it than a volume: {', '.join(others[:3])}",
                             "move that to another place first")
    return history(os, files)


def delete(path: str | Path, *, settings: Settings | None = None, force: bool = False) -> str:
    """Delete the volume at `path`; the path of the disk that it protected, which is a plain raw disk with the current
    content then, or "". `force`: also where that could not be seen to, as of a damaged volume or a missing disk.

    Raises as what_is_lost(); Busy; where not `force` also Corruption, Unavailable.
    """
    os, files = posix(), VolumeFiles(_folder(path))
    directory = files.directory
    what_is_lost(directory)
    disk = ""
    try:
        disk = geometries.load(os, files).disk
        if disk:
            detach(directory, settings=settings)
    except CdpError:
        if not force:
            raise
    held = layout.lock(os, files)
    try:
        gone = directory + DELETED
        if os.exists(gone):     # of a deletion that was killed
            layout.remove_tree(os, gone)
        os.rename(directory, gone)
        os.sync_dir(str(Path(directory).parent))
    finally:
        held.close()
    layout.remove_tree(os, gone)
    with suppress(OSError):
        if _os.path.islink(path) and not _os.path.exists(path):
            _os.unlink(path)
    return disk


def _folder(path: str | Path) -> str:
    """The folder itself, links followed."""
    directory = str(Path(absolute(path)).resolve())
    if not layout.is_volume(directory):
        raise NotFound(f"{directory}: no such volume", "give the directory of a volume")
    return directory
