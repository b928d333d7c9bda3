"""Scrub: all that a volume has sealed is read, beside its I/O, and compared with its checksums, piece by piece.

    log     each sealed segment, by its table of checksums, a page (4 MiB) at a time; without a table by its frames
    runs    each file of the index, as a whole
    base    by base.sums, where that is kept now (not while history is folded into the base)
    disk    of before-images: by disk.sums, what that knows

Invariants
  1. A file that was freed, merged or changed in an allowed way while it was read is no damage: what does not match is
     looked at again, with the catalog as it is then.
  2. Memory is bounded: a page of a table, what it is for, and MOST_PROBLEMS problems.
Threading: pieces() and Scrub.step() by one thread at a time; the rest from any.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cdp.store.catalog import RestoreRow, Run, Segment
from cdp.store.scrub_file import PARTS, Place, ScrubState, load, save
from cdp.store.space import allocated_bytes
from cdp.text.sizes import approx_size
from cdpcore.base.errors import CdpError, Closed, Corruption
from cdpcore.index import inspect as index
from cdpcore.log.segment_file import SegmentFile
from cdpcore.log.sums_file import wrong_blocks

if TYPE_CHECKING:
    from cdp.volume.volume import Volume

log = logging.getLogger("cdp.scrub")
PAGE_BYTES = 1023 * 4096        # that a page of a table of checksums is for
HOLE_BYTES = 4096               # what a page that is a hole counts for
SAVE_S = 30.0                   # how often the place is written while a scrub is under way
TURN_S = 0.25                   # how long a step reads at the most
CLIENTS_SHARE = 4               # such a part of the rate while clients wait
COPY = "put the file back from a copy"
REBUILD = "run 'cdp check --rebuild'"
Add = Callable[[str, str, str], None]
"""(where, what, hint): a problem was found."""


def pieces(volume: Volume, add: Add, place: Place, upto_segment: int, upto_run: int) -> Iterator[tuple[Place, int]]:
    """Read the volume from `place` on; segments and runs up to those. Yields after each piece the place that is next,
    and the bytes that were read. Raises Closed."""
    def of(part: str) -> Place:
        return place if place.part == part else Place(part)

    first = PARTS.index(place.part)
    if first <= PARTS.index("log"):
        yield from _log(volume, add, of("log"), upto_segment)
    if first <= PARTS.index("runs"):
        yield from _runs(volume, add, of("runs"), upto_run)
    if first <= PARTS.index("base"):
        yield from _base(volume, add, of("base"))
    yield from _disk(volume, add, of("disk"))


def outside_log(volume: Volume, add: Add) -> int:
    """Read the base, or the protected disk, at once. The bytes that were read."""
    return sum(n_bytes for _, n_bytes in pieces(volume, add, Place("base"), 0, 0))


def _log(volume: Volume, add: Add, place: Place, upto: int) -> Iterator[tuple[Place, int]]:
    store = volume._store
    while row := next((row for row in store.timeline.rows() if place.item <= row.number <= upto), None):
        page = place.page if row.number == place.item else 0
        pages = -(-row.file_bytes // PAGE_BYTES)
        while page < pages:
            n_bytes, whole = _segment_page(volume, row, page, add)
            page = pages if whole else page + 1
            if page < pages:
                yield Place("log", row.number, page), n_bytes
        place = Place("log", row.number + 1)
        yield place, n_bytes


def _segment_page(volume: Volume, row: Segment, page: int, add: Add) -> tuple[int, bool]:
    """(bytes read, whether that was all of the segment)."""
    store, wrong = volume._store, list[tuple[str, str]]()
    path = store.files.segment(row.number)
    for _ in range(2):      # what does not match is looked at again: it may have been freed meanwhile
        wrong, rows = [], store.catalog.rows(Segment)
        if row not in rows:
            return 0, True
        try:
            segment = SegmentFile(store.os, path, store.uuid, row.number)
            try:
                n_bytes, whole = _look(volume, segment, row, page, wrong)
            finally:
                segment.close()
        except Closed:
            raise
        except CdpError as e:
            wrong, n_bytes, whole = [(path, e.message.removeprefix(f"{path}: "))], 0, True
        if not wrong:
            return n_bytes, whole
    if row in store.catalog.rows(Segment):
        for where, what in wrong:
            add(where, what, COPY)
    return n_bytes, whole


def _look(volume: Volume, segment: SegmentFile, row: Segment, page: int,
          wrong: list[tuple[str, str]]) -> tuple[int, bool]:
    store, path = volume._store, segment.path
    rows: list[RestoreRow] = store.catalog.rows(RestoreRow)
    freed = [(r.target_seq, r.seq, r.start, r.end) for r in rows if r.destructive]
    if not segment.sealed:
        wrong.append((path, "the catalog says sealed, but there is no valid trailer"))
        return 0, True
    if page == 0:
        segment.directory()
    if segment.has_table:
        thinned = row.first_seq <= store.thinned.upto
        wrong += [(path, f"byte {at}: {what}")
                  for at, what in segment.wrong_blocks(bool(freed) or thinned, page, page + 1)]
        return PAGE_BYTES, False
    promised = segment.last_seq, segment.n_frames
    segment.scan(row.first_seq, verify_data=True, freed=freed)
    if (segment.last_seq, segment.n_frames) != promised:
        why = segment.complaint() or f"bad frame at byte {segment.end_bytes}"
        wrong.append((path, f"sound up to #{segment.last_seq} of #{promised[0]}: {why}"))
    return row.file_bytes, True


def _runs(volume: Volume, add: Add, place: Place, upto: int) -> Iterator[tuple[Place, int]]:
    store = volume._store
    while left := [run for run in store.maintainer.runs if place.item <= run.id <= upto]:
        run = min(left, key=lambda run: run.id)
        path = store.files.run(run.id)
        try:
            with index.Run(path, store.uuid) as opened:
                opened.verify()
        except Closed:
            raise
        except CdpError as e:
            if run in store.catalog.rows(Run):      # else it was merged meanwhile
                add(path, e.message.removeprefix(f"{path}: "), REBUILD)
        place = Place("runs", run.id + 1)
        yield place, run.file_bytes


def _base(volume: Volume, add: Add, place: Place) -> Iterator[tuple[Place, int]]:
    store, path = volume._store, volume._store.files.base
    pages = -(-volume.size_bytes // PAGE_BYTES) if store.os.exists(path) else 0
    for page in range(place.page, pages):
        n_bytes, wrong = HOLE_BYTES, list[tuple[int, str]]()
        for _ in range(2):
            if not store.kind.base_is_checked():
                return
            try:
                with store.os.open(path) as base, store.os.open(store.files.base_sums) as table:
                    data = base.next_data(page * PAGE_BYTES)
                    n_bytes = PAGE_BYTES if data and data[0] < (page + 1) * PAGE_BYTES else HOLE_BYTES
                    wrong = wrong_blocks(base, table, store.uuid, 0, page, page + 1)
            except Closed:
                raise
            except CdpError as e:
                wrong = [(page * PAGE_BYTES, e.message)]
            if not wrong:
                break
        if wrong and store.kind.base_is_checked():
            for at, what in wrong:
                add(path, f"byte {at}: {what}", COPY)
        yield Place("base", 0, page + 1), n_bytes


def _disk(volume: Volume, add: Add, place: Place) -> Iterator[tuple[Place, int]]:
    kind = volume._store.kind
    pages = -(-volume.size_bytes // PAGE_BYTES) if (kind.disk_checksums() or {}).get("on") else 0
    for page in range(place.page, pages):
        for start, end in kind.disk_differences(page):
            # A block that is being written differs for a moment: a read of the volume knows, and is the judge.
            with volume.at("now") as image:
                for at in range(start, end, 4096):
                    try:
                        image.pread(min(4096, end - at), at)
                    except Corruption as e:
                        add(volume.geometry().disk, f"byte {at}: {e.message}", "put it back from a copy")
        yield Place("disk", 0, page + 1), PAGE_BYTES


class Scrub:
    """Of an open volume, again and again.

    rate_bytes: a second, a quarter of it while clients wait; 0: as fast as it comes. interval_s: from the end of one to
    the beginning of the next; 0: none begins. after_s: nothing is read before. found(where, what, hint): called for
    each problem. now_ns, now_s: clocks.
    """

    def __init__(self, volume: Volume, rate_bytes: int, interval_s: float, found: Add = lambda *_: None, *,
                 after_s: float = 0.0, now_ns: Callable[[], int] = time.time_ns,
                 now_s: Callable[[], float] = time.monotonic):
        self._volume, self._rate, self._interval_s, self._found = volume, rate_bytes, interval_s, found
        self._now_ns, self._now_s = now_ns, now_s
        self._lock = threading.Lock()       # guards _state, and that one thread writes the file
        self._os, self._files = volume._store.os, volume._store.files
        self._state = load(self._os, self._files)
        self._pieces: Iterator[tuple[Place, int]] | None = None
        self._total = 1
        self._next_s, self._saved_s = now_s() + after_s if after_s else 0.0, 0.0
        self._requests = -1

    @property
    def state(self) -> ScrubState:
        return self._state

    def percent(self) -> float | None:
        """Of the scrub that is under way; None: none is, or it was not gone on with yet."""
        state = self._state
        return min(99.9, state.bytes_read * 1000 // self._total / 10) if state.began_ns and self._pieces else None

    def wanted(self, now_s: float) -> bool:
        """Whether step() would do something. Does not wait."""
        return now_s >= self._next_s and (bool(self._state.began_ns) or self._due())

    def _due(self) -> bool:
        if not self._interval_s:
            return False
        ended_ns, now_ns = self._state.last_ended_ns, self._now_ns()
        # A clock that was set back must not put the next one off for ever.
        return not ended_ns or not 0 <= now_ns - ended_ns < self._interval_s * 1e9

    def step(self) -> int:
        """Read for a quarter of a second, or what the rate gives for that. Returns the bytes read."""
        began_s = self._now_s()
        if self._pieces is None:
            self._begin(began_s)
        assert self._pieces is not None
        rate = self._rate // (CLIENTS_SHARE if self._clients_wait() else 1)
        n_bytes = 0
        while self._now_s() - began_s < TURN_S and (not rate or n_bytes < rate * TURN_S):
            piece = next(self._pieces, None)
            if piece is None:
                self._end()
                break
            place, n = piece
            n_bytes += n
            with self._lock:
                self._state = self._state.changed(place=place, bytes_read=self._state.bytes_read + n)
        self._next_s = began_s + (n_bytes / rate if rate else 0.0)
        if self._state.began_ns and self._now_s() - self._saved_s >= SAVE_S:
            self.save()
        return n_bytes

    def _begin(self, now_s: float) -> None:
        store, size_bytes = self._volume._store, self._volume.size_bytes
        with self._lock:
            if not self._state.began_ns:
                self._state = self._state.changed(
                    began_ns=max(1, self._now_ns()), place=Place(), bytes_read=0, problems=(), n_problems=0,
                    upto_segment=max((row.number for row in store.timeline.rows()), default=0),
                    upto_run=max((run.id for run in store.maintainer.runs), default=0))
        self._total = 1 + sum(row.file_bytes for row in store.timeline.rows())
        self._total += sum(run.file_bytes for run in store.maintainer.runs)
        self._total += allocated_bytes(self._files.base) + (size_bytes if store.kind.disk_checksums() else 0)
        state = self._state
        self._pieces = pieces(self._volume, self._add, state.place, state.upto_segment, state.upto_run)
        self._saved_s = now_s

    def _add(self, where: str, what: str, hint: str) -> None:
        with self._lock:
            self._state = self._state.found(where, what, hint)
        log.error("%s: damage found by the scrub: %s: %s; %s", self._volume.path, where, what, hint)
        self._found(where, what, hint)

    def _end(self) -> None:
        with self._lock:
            self._state = self._state.ended(self._now_ns())
        self._pieces = None
        self.save()
        self._ended()

    def checked(self, began_ns: int, n_bytes: int, problems: list[tuple[str, str, str]]) -> None:
        """Somebody else has read everything, from `began_ns` until now: as if a scrub had ended."""
        with self._lock:
            now = ScrubState(began_ns=began_ns, bytes_read=n_bytes)
            for problem in problems:
                now = now.found(*problem)
            ended, under_way = now.ended(self._now_ns()), self._state
            self._state = under_way.changed(
                last_began_ns=began_ns, last_ended_ns=ended.last_ended_ns, last_bytes=n_bytes,
                last_problems=ended.last_problems, last_n_problems=ended.last_n_problems)
        self.save()
        self._ended()

    def _ended(self) -> None:
        n_bytes, problems = self._state.last_bytes, self._state.last_n_problems
        self._volume._store.events.publish("scrub_ended", f"{approx_size(n_bytes)} were read and compared; "
                                           f"{problems or 'no'} damaged places", bytes=n_bytes, problems=problems)

    def save(self) -> None:
        """Write down how far it is, where that can be done: what is lost is read again."""
        self._saved_s = self._now_s()
        with self._lock:
            try:
                self._volume._store.check_folder()
                save(self._os, self._files, self._state)
            except CdpError as e:
                log.info("%s: the place of the scrub is not kept: %s", self._volume.path, e)

    def _clients_wait(self) -> bool:
        """Whether a request came since the last step."""
        counts = self._volume._core.stages.describe(False)["requests"].values()
        requests, before = sum(int(one["count"]) for one in counts), self._requests
        self._requests = requests
        return requests != before
