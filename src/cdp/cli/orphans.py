"""Processes that a command started, and those that they started: found, wherever their parents are. Linux."""
import ctypes
import sys
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on a process below this one whose parent ends becomes a child of this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children_of(parents: set[int]) -> set[int]:
    """The processes that run and have one of these parents."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue    # it has ended
        if int(parent) in parents and state != "Z":
            found.add(int(path.parent.name))
    return found
