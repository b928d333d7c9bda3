"""Files that are written because a user named them: never a volume's disk, base or folder.

An export is renamed over what is there, or written onto a device: done to a disk that a volume protects, it takes
what that volume has acknowledged, and its history does not fit any more. A volume holds the lock (flock) of its disk,
of what lies beneath it, and of its base, in the process that has it open. So writers ask for a shared lock of the
output, of what lies beneath it, and of what lies on it, and keep it until they are done.

A disk whose volume no process has open cannot be told from another file, but for the caller's own volume.
Any thread.
"""
from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from cdp.store import block_devices
from cdp.store.layout import is_volume
from cdpcore.base.errors import Busy, InvalidRequest, Unavailable

HINT = "write to another place; 'cdp restore' is what puts a volume back to a moment"


@contextmanager
def output_file(path: str, own: Sequence[str] = ()) -> Iterator[str]:
    """The path to write to, links followed, which no volume uses until the context ends. `own`: files that must not be
    written to, whether locked or not. Raises InvalidRequest, Busy, Unavailable."""
    check_outside(path)
    real = os.path.realpath(path)
    with ExitStack() as held:
        if _has_content(real):
            shared = [real, *(below for below, _ in block_devices.beneath(real)), *block_devices.above(real)]
            for name in shared:
                _refuse_own(path, name, own)
                _hold(held, path, name)
        yield real


def check_outside(path: str) -> None:
    """Raises InvalidRequest where `path` lies in a volume's folder."""
    inside = os.path.realpath(path)
    while inside != os.path.dirname(inside):
        inside = os.path.dirname(inside)
        if is_volume(inside):
            raise InvalidRequest(f"{path} lies in the volume {inside}, whose files are its own",
                                 "write to a place outside of it")


def _has_content(path: str) -> bool:
    """Not a terminal, a pipe or the null device."""
    with suppress(OSError):
        mode = os.stat(path).st_mode
        return stat.S_ISREG(mode) or stat.S_ISBLK(mode)
    return False


def _refuse_own(path: str, name: str, own: Sequence[str]) -> None:
    for mine in own:
        with suppress(OSError):
            a, b = os.stat(name), os.stat(mine)
            devices = stat.S_ISBLK(a.st_mode) and stat.S_ISBLK(b.st_mode)
            if os.path.samestat(a, b) or devices and a.st_rdev == b.st_rdev:
                raise InvalidRequest(f"{path} is the disk or base of the volume itself", HINT)


def _hold(held: ExitStack, path: str, name: str) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as e:
        raise Unavailable(f"{path}: whether a volume uses it cannot be told: {name}: {e.strerror}",
                          "run as a user who may, or choose another path") from None
    held.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        shared = "" if name == path else f" (through {name})"
        raise Busy(f"{path} is in use: a volume that is open has it as its disk or base{shared}", HINT) from None
    except OSError:     # a file system without such locks: no volume holds one there either
        pass
