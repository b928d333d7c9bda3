"""What differs between the files of two moments: added, removed, changed.

Two files are the same where their metadata is (inode, size, times, mode ...) and no byte of their data's place on the
disk differs. One thread.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cdp.files.model import Entry
from cdp.files.session import Files
from cdpcore.base.errors import NotFound


@dataclass(frozen=True)
class Change:
    """kind: added, removed, changed; what: of a changed one, the fields that differ, or "data" where only that does."""

    kind: str
    path: str
    before: Entry | None
    after: Entry | None
    what: tuple[str, ...] = ()


FIELDS = ("kind", "size_bytes", "mtime_ns", "mode", "uid", "gid", "inode", "generation", "target", "ctime_ns", "links")


def changes(first: Files, second: Files, path: str, differing: Iterable[tuple[int, int]]) -> Iterator[Change]:
    """What differs below a path, by name. `differing`: the ranges of the disk whose bytes differ between the two."""
    before, after = _below(first, path), _below(second, path)
    if not before and not after:
        second.entries(path)    # says what is wrong with the path
    same = {name for name in before.keys() & after.keys() if _same(before[name], after[name])}
    silent = second.touched(path, list(differing)) & same if same else set()
    for name in sorted(before.keys() | after.keys()):
        if name in silent:
            yield Change("changed", name, before[name], after[name], ("data",))
        elif name not in same:
            old, new = before.get(name), after.get(name)
            what = tuple(field for field in FIELDS if old and new and getattr(old, field) != getattr(new, field))
            yield Change("added" if old is None else "removed" if new is None else "changed", name, old, new, what)


def _below(files: Files, path: str) -> dict[str, Entry]:
    try:
        return {one.name: one for one in files.entries(path, recursive=True)}
    except NotFound:
        return {}


def _same(a: Entry, b: Entry) -> bool:
    """A directory has another size and time where something in it came or went: that is said of those."""
    if a.kind == b.kind == "directory":
        b = replace(b, size_bytes=a.size_bytes, mtime_ns=a.mtime_ns, ctime_ns=a.ctime_ns, links=a.links)
    return a == b
