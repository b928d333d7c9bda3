"""How much memory the logs of this process may have together for what was just written; and what it need not keep."""
from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from cdpcore.log.memory import Memory
from cdpcore.log.ring import FrameRing
from cdpcore.system.os import Os

if TYPE_CHECKING:
    from cdp.store.tuning import Tuning

SHARE = 8
"""An eighth of what there is: the index's mapped files and the page cache need the rest."""
LEAST_BYTES = 64 << 20

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3       # of glibc's mallopt
_MAPPED_BYTES = 15 << 17        # less than the 2 MiB that LMDB allocates for each catalog, more than most requests

_process: list[Memory] = []     # one, once a volume was opened


def ring(os_: Os, tuning: Tuning) -> FrameRing:
    """For the frames of one log."""
    unwritten_bytes = tuning.slot_bytes * tuning.n_slots
    if not tuning.memory_bytes:
        return FrameRing(os_, Memory(unwritten_bytes), slot_bytes=tuning.slot_bytes, unwritten_bytes=unwritten_bytes,
                         max_slots=tuning.n_slots)
    return FrameRing(os_, of_process(tuning.memory_bytes), slot_bytes=tuning.slot_bytes,
                     unwritten_bytes=unwritten_bytes, ahead=tuning.threads)


def of_process(limit_bytes: int) -> Memory:
    """The memory that all logs of the process share; from now on with this bound: the volume opened last says it."""
    if not _process:
        _process.append(Memory(limit_bytes))
    _process[0].limit_bytes = limit_bytes
    return _process[0]


os.register_at_fork(after_in_child=_process.clear)  # what is open belongs to the parent


def map_large_blocks() -> None:
    """For the process of a server, before it opens volumes: blocks of 1.9 MiB and more get a mapping of their own.
    glibc stops doing that for blocks up to the size of one that was freed, and takes them from its heap, where zeros
    have to be written: the 2 MiB of them that LMDB allocates for each catalog, and hardly uses, are resident then. 40
    volumes that had written took 0.96 MiB each, and 0.31 so. Nothing happens with another C library."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _MAPPED_BYTES)


def default_bytes() -> int:
    """An eighth of what the process may have."""
    return max(LEAST_BYTES, process_bytes() // SHARE)


def process_bytes() -> int:
    """The machine's memory, or what the process's control groups allow if that is less."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_group_limits()])


def _group_limits(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> list[int]:
    """The bounds of this process's control group and of those above it, version 2 and 1."""
    found: list[int] = []
    for line in _read(proc).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (root, "memory.max") if not controllers else (f"{root}/memory", "memory.limit_in_bytes")
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            text = _read("/".join([base, *parts[:depth], name])).strip()
            if text.isdigit() and int(text):
                found.append(int(text))
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
