"""The files in a volume's folder: their names, its lock, and what an interrupted rebuild left.

    VOLUME/
      volume.json    size, identity, where the base is
      lock           held while a process has the volume open
      catalog.lmdb   what it consists of (rebuildable)
      reserve        becomes a small segment where a full disk has no space for one: bookmarks, restores and undo go on
      base.img       content at the beginning of history (sparse; absent where all holes)
      disk.state     of before-images instead: up to which record the disk, which lies elsewhere, holds everything
      disk.json      ... and how it looked when the volume was closed
      log/N.log      segments
      runs/N.run     their index
      images/NAME/   writable images: volumes whose base is this volume at a point
"""
from __future__ import annotations

import os as _os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from cdpcore.base.errors import Busy, CdpError, Unavailable

if TYPE_CHECKING:       # the command line looks for volumes before it loads the engine
    from cdpcore.system.os import File, Os


def is_volume(path: str) -> bool:
    """Whether a directory looks like a volume or a writable image. Its catalog may be lost: that can be rebuilt.

    Raises Unavailable where this user may not look.
    """
    try:
        mode = _os.stat(_os.path.join(path, "lock")).st_mode      # a file: /var has a folder of that name, and a log
        return stat.S_ISREG(mode) and _os.path.isdir(_os.path.join(path, "log"))
    except PermissionError:
        raise Unavailable(f"{path}: Permission denied", "run as a user who may enter it") from None
    except OSError:
        return False


def log_numbers(os: Os, log_directory: str) -> list[int]:
    """Numbers of the segment files, ascending."""
    names = os.list_dir(log_directory)
    return sorted(int(n[:-4]) for n in names if n.endswith(".log") and n[:-4].isdigit())


def run_path(directory: str, run_id: int) -> str:
    return f"{directory}/runs/{run_id:010d}.run"


def log_path(directory: str, number: int) -> str:
    return f"{directory}/log/{number:010d}.log"


BASE = "base.img"
RESERVE = "reserve"
RESERVE_BYTES = 1 << 20
CREATING = ".creating"
REBUILDING, REPLACED = "catalog.lmdb.new", "catalog.lmdb.old"


def clear_rebuild(os: Os, directory: str) -> None:
    """End what a 'cdp check --rebuild' that was killed had begun: a new catalog that was being put in place is
    complete, and takes it; one that was being filled is removed."""
    catalog, old, new = (f"{directory}/{name}" for name in ("catalog.lmdb", REPLACED, REBUILDING))
    if os.exists(old) and not os.exists(catalog):
        os.rename(new if os.exists(new) else old, catalog)
        os.sync_dir(directory)
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


def lock(os: Os, directory: str, read_only: bool = False) -> File:
    """The volume's lock, held until the file is closed. Raises Busy. `read_only`: where the file cannot be opened to
    write."""
    file = os.open(f"{directory}/lock", write=not read_only)
    try:
        file.lock()
    except CdpError:
        file.close()
        if _open_here(f"{directory}/lock"):
            raise Busy(f"{directory}: the volume is open in this process already",
                       "use the Volume that is open, or close it first (after a fork: the parent's)") from None
        raise Busy(f"{directory}: another process has the volume open",
                   "stop it, or let it do the work: the command line finds a running server by itself") from None
    return file
