"""What is done with the files in a volume's folder as a whole: which are there, its lock, what an interrupted rebuild
left.

cdp.store.volume_files has their names.
"""
from __future__ import annotations

import os as _os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Busy, CdpError, Unavailable

if TYPE_CHECKING:       # the command line looks for volumes before it loads the engine
    from cdpcore.system.os import File, Os

RESERVE_BYTES = 1 << 20


def is_volume(path: str) -> bool:
    """Whether a directory looks like a volume or a writable image. Its catalog may be lost: that can be rebuilt.

    Raises Unavailable where this user may not look.
    """
    files = VolumeFiles(path)
    try:
        mode = _os.stat(files.lock).st_mode     # a file: /var has a folder of that name, and a log
        return stat.S_ISREG(mode) and _os.path.isdir(files.log)
    except PermissionError:
        raise Unavailable(f"{path}: Permission denied", "run as a user who may enter it") from None
    except OSError:
        return False


def segment_numbers(os: Os, files: VolumeFiles) -> list[int]:
    """Numbers of the segment files that are there, ascending."""
    return _numbers(os, files.log, ".log")


def run_ids(os: Os, files: VolumeFiles) -> list[int]:
    """Ids of the run files that are there, ascending."""
    return _numbers(os, files.runs, ".run")


def _numbers(os: Os, folder: str, ending: str) -> list[int]:
    names = (name.removesuffix(ending) for name in os.list_dir(folder) if name.endswith(ending))
    return sorted(int(name) for name in names if name.isdigit())


def clear_rebuild(os: Os, files: VolumeFiles) -> None:
    """End what a 'cdp check --rebuild' that was killed had begun: a new catalog that was being put in place is complete
    and takes it; one that was being filled is removed."""
    catalog, old, new = files.catalog, files.catalog_replaced, files.catalog_rebuilding
    if os.exists(old) and not os.exists(catalog):
        os.rename(new if os.exists(new) else old, catalog)
        os.sync_dir(files.directory)
    for path in (new, old):
        if os.exists(path):
            remove_tree(os, path)


def remove_tree(os: Os, path: str) -> None:
    """Remove a folder and all in it."""
    try:
        names = os.list_dir(path)
    except CdpError:
        os.unlink(path)
        return
    for name in names:
        remove_tree(os, f"{path}/{name}")
    os.rmdir(path)


def _open_here(path: str) -> bool:
    """Does a descriptor of this process refer to this file?"""
    try:
        wanted = _os.stat(path)
        numbers = _os.listdir("/dev/fd")
    except OSError:     # a simulated file, or a system without such a folder
        return False
    for number in numbers:
        with suppress(OSError):
            if _os.path.samestat(_os.fstat(int(number)), wanted):
                return True
    return False


def lock(os: Os, files: VolumeFiles, read_only: bool = False) -> File:
    """The volume's lock, held until the file is closed. Raises Busy. `read_only`: where the file cannot be opened to
    write."""
    file = os.open(files.lock, write=not read_only)
    try:
        file.lock()
    except CdpError:
        file.close()
        if _open_here(files.lock):
            raise Busy(f"{files.directory}: the volume is open in this process already",
                       "use the Volume that is open, or close it first (after a fork: the parent's)") from None
        raise Busy(f"{files.directory}: another process has the volume open",
                   "stop it, or let it do the work: cdp.connect() and the command line find a running server") from None
    return file
