"""Which files and block devices share storage, as the kernel's sysfs says: loop devices and the files behind them,
disks and their partitions, device-mapper and md devices and what they consist of.

Where there is no sysfs, nothing shares. Any thread.
"""
from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

_SYSTEM = "/sys"
_DELETED = " (deleted)"


def beneath(path: str) -> Iterator[tuple[str, bool]]:
    """What the block device at `path` stores its content in, at any depth: (path, whole). whole: all that lies between
    is a loop device, so that it is the same disk; else the device is a part of it. Nothing for a file."""
    yield from _beneath(_folder(path), True, set())


def _beneath(folder: str | None, whole: bool, seen: set[str]) -> Iterator[tuple[str, bool]]:
    if folder is None or folder in seen:
        return
    seen.add(folder)
    if behind := _backing_file(folder):
        yield behind, whole
        yield from _beneath(_folder(behind), whole, seen)
    parts = [os.path.dirname(folder)] if os.path.exists(f"{folder}/partition") else _links(f"{folder}/slaves")
    for part in parts:
        yield _device(part), False
        yield from _beneath(part, False, seen)


def above(path: str) -> Iterator[str]:
    """The block devices whose content lies in the file or block device at `path`, at any depth."""
    folder = _folder(path)
    first = [*_loops_on(path)] if folder is None else [folder]
    seen: set[str] = set()
    for found in first:
        yield from _above(found, seen)


def _above(folder: str, seen: set[str]) -> Iterator[str]:
    if folder in seen:
        return
    seen.add(folder)
    yield _device(folder)
    for upper in [*_partitions(folder), *_links(f"{folder}/holders"), *_loops_on(_device(folder))]:
        yield from _above(upper, seen)


def _folder(path: str) -> str | None:
    """The folder in sysfs of a block device."""
    with suppress(OSError):
        found = os.stat(path)
        if stat.S_ISBLK(found.st_mode):
            folder = os.path.realpath(f"{_SYSTEM}/dev/block/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
            return folder if os.path.isdir(folder) else None
    return None


def _device(folder: str) -> str:
    """The path of a block device by its folder in sysfs."""
    with suppress(OSError), open(f"{folder}/uevent", encoding="utf-8") as file:
        for line in file:
            if line.startswith("DEVNAME="):
                return f"/dev/{line.rstrip()[8:]}"
    return f"/dev/{os.path.basename(folder).replace('!', '/')}"


def _backing_file(folder: str) -> str:
    """Of a loop device; "" for another one, or where the file was deleted."""
    with suppress(OSError), open(f"{folder}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file:
        found = file.read().rstrip("\n")
        return "" if found.endswith(_DELETED) and not os.path.exists(found) else found
    return ""


def _loops_on(path: str) -> Iterator[str]:
    """Folders of the loop devices whose file, or device, is the one at `path`."""
    with suppress(OSError):
        for name in sorted(os.listdir(f"{_SYSTEM}/block")):
            folder = os.path.realpath(f"{_SYSTEM}/block/{name}")
            behind = _backing_file(folder)
            if behind:
                with suppress(OSError):
                    if os.path.samefile(behind, path):
                        yield folder


def _links(folder: str) -> list[str]:
    with suppress(OSError):
        return [os.path.realpath(f"{folder}/{name}") for name in sorted(os.listdir(folder))]
    return []


def _partitions(folder: str) -> list[str]:
    with suppress(OSError):
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder))
                if os.path.exists(f"{folder}/{name}/partition")]
    return []
