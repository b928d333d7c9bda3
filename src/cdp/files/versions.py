"""The versions of a file: its states from moment to moment, found without looking at each moment.

A reader's process says what the file is at a moment and on which bytes of the disk that depends (follow); the index of
the volume says when one of those is written next. One thread.
"""
from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cdp.files.model import Entry
from cdp.files.session import Read, Session

Range = tuple[int, int]
Row = tuple[int, int, int]      # a record, and the offset and length of what it changed
# (offset, length, after a seq, limit) -> the first records after it, up to the last one of interest, that changed a
# range, in order.
Rows = Callable[[int, int, int, int], list[Row]]
REGION_BYTES, PAGE, OFTEN = 1 << 20, 1000, 3


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
             rows: Rows, shown_at: Callable[[int], int]) -> Iterator[Version]:
    """The versions in the records first .. last, in order. `read_at`: the disk at a record; `shown_at`: the first
    moment that shows a record, itself or, where that was thinned, the kept one after it. Raises Unavailable, and what
    the disk raises."""
    now, known = Version(first, first, None, ""), dict[Range, Row | None]()
    at, read, coming_in = first, read_at(first), _Coming(rows, size_bytes)
    changed: list[Range] | None = None
    begun = False
    with Session(lambda length, offset: read(length, offset), size_bytes, partition) as session:
        while True:
            entry, why, pieces, depends = session.follow(path, changed)
            if not begun:
                now, begun = Version(at, at, entry, why, pieces), True
            elif entry != now.entry:
                now.last = at - 1
                yield now
                now = Version(at, at, entry, why, pieces)
            else:
                now.pieces = pieces
            known = {one: known[one] if one in known and _is_after(known[one], at) else coming_in(*one, at)
                     for whole in depends for one in _regions(*whole)}
            coming = [row for row in known.values() if row is not None and row[0] <= last]
            if not coming:
                break
            record = min(row[0] for row in coming)
            at = shown_at(record)
            read = read_at(at)
            # Up to a later moment other records may have changed it, too.
            changed = [(offset, length) for seq, offset, length in coming if seq == at] if at == record else None
    now.last = last
    yield now


def _is_after(row: Row | None, seq: int) -> bool:
    return row is None or row[0] > seq


def _regions(offset: int, length: int) -> Iterator[Range]:
    """A range, in parts none of which lies in two regions."""
    end = offset + length
    while offset < end:
        part = min(end, (offset // REGION_BYTES + 1) * REGION_BYTES) - offset
        yield offset, part
        offset += part


class _Coming:
    """The next change of a range. Of a region that is asked about often, such as the journal, a page of its changes is
    asked for at once."""

    def __init__(self, rows: Rows, size_bytes: int):
        self._rows, self._size = rows, size_bytes
        self._asked = Counter[int]()
        self._pages: dict[int, tuple[int, list[Row]]] = {}      # region: the seq after which, and what changed it

    def __call__(self, offset: int, length: int, after: int) -> Row | None:
        region = offset // REGION_BYTES
        self._asked[region] += 1
        if self._asked[region] > OFTEN:
            since, page = self._pages.get(region, (after + 1, []))
            if since > after or len(page) == PAGE and page[-1][0] <= after:
                start = region * REGION_BYTES
                page = self._rows(start, min(REGION_BYTES, self._size - start), after, PAGE)
                self._pages[region] = after, page
            for row in page[bisect_right(page, after, key=lambda one: one[0]):]:
                if row[1] < offset + length and offset < row[1] + row[2]:
                    return row
            if len(page) < PAGE:
                return None
        found = self._rows(offset, length, after, 1)
        return found[0] if found else None
