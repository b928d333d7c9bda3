"""The versions of a file: its states from moment to moment, found without looking at each moment.

A reader's process says what the file is at a moment and on which bytes of the disk that depends (follow); the index of
the volume says when one of those is written next. One thread.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cdp.files.model import Entry
from cdp.files.session import Read, Session

Range = tuple[int, int]
# (offset, length, after a seq) -> the first record after it, up to the end, that changed the range: (seq, offset,
# length of what it changed); None: none did.
NextChange = Callable[[int, int, int], "tuple[int, int, int] | None"]


@dataclass
class Version:
    """What was at a path from record `first` to record `last`. entry: None: nothing, and `why`. pieces: where its data
    is on the disk, as (offset, length)."""

    first: int
    last: int
    entry: Entry | None
    why: str
    pieces: list[Range] = field(default_factory=list)


def versions(read_at: Callable[[int], Read], size_bytes: int, partition: int | None, path: str, first: int, last: int,
             next_change: NextChange) -> Iterator[Version]:
    """The versions in the records first .. last, in order. `read_at`: the disk at a record. Raises Unavailable, and
    what the disk raises."""
    at, now = first, Version(first, first, None, "")
    known: dict[Range, tuple[int, int, int] | None] = {}
    changed: list[Range] | None = None
    with Session(lambda length, offset: read_at(at)(length, offset), size_bytes, partition) as session:
        while True:
            entry, why, pieces, depends = session.follow(path, changed)
            if changed is None:
                now = Version(at, at, entry, why, pieces)
            elif entry != now.entry:
                now.last = at - 1
                yield now
                now = Version(at, at, entry, why, pieces)
            else:
                now.pieces = pieces
            known = {one: known[one] if one in known and is_after(known[one], at) else next_change(*one, at)
                     for one in depends}
            coming = [change for change in known.values() if change is not None and change[0] <= last]
            if not coming:
                break
            at = min(change[0] for change in coming)
            changed = [(offset, length) for seq, offset, length in coming if seq == at]
    now.last = last
    yield now


def is_after(change: tuple[int, int, int] | None, seq: int) -> bool:
    return change is None or change[0] > seq
