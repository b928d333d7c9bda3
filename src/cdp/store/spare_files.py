"""Empty files in a volume's folder, for the day on which no file can be made: no inode, or the quota of files is used
up. One is removed, and what has to be made (a run, serving.json) takes its place.

As the reserve is for space. Runs come first: without one a volume that is to be opened cannot be, nor could the
destructive restore that frees files. So the last RUN_SPARES are only for runs.

Threading: any thread; two that take one at once are no harm.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import CdpError, OutOfSpace
from cdpcore.system.os import Os

RUN_SPARES = 2
T = TypeVar("T")


def renew(os: Os, files: VolumeFiles) -> None:
    """Have them there again, as far as files can be made. Beyond RUN_SPARES of them the last one is left to others."""
    with suppress(CdpError):
        for number, path in enumerate(files.spares()):
            if not os.exists(path):
                os.open(path, write=True, create=True).close()
                if number >= RUN_SPARES and not _can_make_files(os, files):
                    os.unlink(path)
                    return


def making(os: Os, files: VolumeFiles, make: Callable[[], T], *, keep: int = 0, recovering: bool = False) -> T:
    """make(), and again for each spare file that is given up where no file can be made. `keep`: so many stay.
    `recovering`: the reserve too, where there is no other, and then what a killed server left: serving.json. Raises
    what make() raises."""
    while True:
        try:
            return make()
        except OutOfSpace:
            if _can_make_files(os, files) or not _give_up(os, files, keep, recovering):
                raise


def _can_make_files(os: Os, files: VolumeFiles) -> bool:
    """Whether it is space that lacks."""
    probe = f"{files.directory}/spare.tmp"
    try:
        with suppress(CdpError):
            os.unlink(probe)
        os.open(probe, write=True, create=True).close()
        os.unlink(probe)
    except CdpError:
        return False
    return True


def _give_up(os: Os, files: VolumeFiles, keep: int, recovering: bool) -> bool:
    there = [path for path in files.spares() if os.exists(path)]
    if not there and recovering:
        there = [path for path in (files.serving, files.reserve) if os.exists(path)]
    if len(there) <= keep:
        return False
    try:
        os.unlink(there[-1])
    except CdpError:
        return False
    return True
