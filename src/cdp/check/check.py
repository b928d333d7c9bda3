"""check: every checksum of log, runs and catalog, and whether they agree. rebuild: catalog and runs anew from the log.

check reads and never writes; it works on a volume that can no longer be opened. rebuild trusts volume.json and the log alone; the
catalog that was there is kept as catalog.lmdb.old until the new one is complete.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdp.check.catalog import differences
from cdp.check.protected_disk import check_disk
from cdp.moments.lineage import RestoreRecord, gaps
from cdp.settings import Settings, checked
from cdp.store import description as geometries
from cdp.store import protected_disk as disks
from cdp.store import store as stores
from cdp.store.catalog import BookmarkRow, Catalog, LmdbCatalog, RestoreRow, Run, Segment, WritebackRow
from cdp.store.description import Geometry
from cdp.store.recovery import RESTORE, RESTORE_DATA, Event, apply_event, log_numbers, log_path, recover, run_path
from cdp.store.tuning import Tuning
from cdp.text.paths import absolute
from cdpcore.base.errors import CdpError, Corruption, NotFound
from cdpcore.index import inspect as index
from cdpcore.inplace.disk_state import DiskState
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import Os, posix

if TYPE_CHECKING:
    from cdp.volume.volume import Volume

Progress = Callable[[int, int], None]
MERGE_AT = 8    # rebuild merges as it goes, so that it never has more than some dozens of runs


@dataclass(frozen=True)
class Problem:
    where: str
    what: str
    hint: str = ""


@dataclass
class Report:
    """What was read, and what was found wrong. ok: nothing."""

    problems: list[Problem] = field(default_factory=list)
    segments: int = 0
    frames: int = 0
    records: int = 0
    runs: int = 0
    bytes_read: int = 0
    ok: bool = True

    def add(self, where: str, what: str, hint: str = "") -> None:
        self.problems.append(Problem(where, what, hint))
        self.ok = False


def check(path: str | Path, *, settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """Check a volume that no process has open, and its images. Raises NotFound, Busy; everything else is in the report."""
    os, directory = posix(), absolute(path)
    report = Report()
    held = _lock(os, directory, read_only=True)
    try:
        _check_directory(os, directory, report, progress)
    finally:
        held.close()
    for name in os.list_dir(f"{directory}/images"):
        if not name.startswith("."):
            inner = check(f"{directory}/images/{name}", settings=settings, progress=progress)
            report.problems += inner.problems
            report.ok = report.ok and inner.ok
            for key in ("segments", "frames", "records", "runs", "bytes_read"):
                setattr(report, key, getattr(report, key) + getattr(inner, key))
    return report


def check_open(volume: Volume, progress: Progress | None = None) -> Report:
    """Check an open volume beside its I/O: what is sealed by now."""
    report = Report()
    volume.flush()
    store = volume._store
    _check_catalogued(store.os, store.directory, store.uuid, store.catalog, report, progress, [])   # events go on being made
    return report


def _lock(os: Os, directory: str, read_only: bool = False) -> Any:
    if not os.exists(f"{directory}/lock"):
        raise NotFound(f"{directory}: no such volume", "make one with 'cdp create'")
    return stores.lock(os, directory, read_only)


def _check_directory(os: Os, directory: str, report: Report, progress: Progress | None) -> None:
    try:
        geometry = geometries.load(os, directory)
    except CdpError as e:
        report.add(f"{directory}/{geometries.NAME}", e.message, e.hint)
        return
    uuid = bytes.fromhex(geometry.uuid)
    try:
        catalog = stores.lmdb_catalog_to_read(directory)
    except CdpError as e:
        report.add(f"{directory}/catalog.lmdb", e.message, e.hint)
        return
    try:
        events: list[Event] = []
        seq = _check_catalogued(os, directory, uuid, catalog, report, progress, events)
        end = _check_tail(os, directory, uuid, {r.number for r in catalog.rows(Segment)}, seq, report, events)
        if geometry.before:
            check_disk(os, directory, geometry, (seq, end), catalog, events, report.add)
        _check_events(directory, catalog, report, events, seq + 1)
    except CdpError as e:
        report.add(f"{directory}/catalog.lmdb", e.message, "run 'cdp check --rebuild'")
        return
    finally:
        catalog.close()
    if geometry.base == "file" and (not os.exists(f"{directory}/base.img") or os.size(f"{directory}/base.img") != geometry.size_bytes):
        report.add(f"{directory}/base.img", f"missing, or not of {geometry.size_bytes} bytes", "put it back from a copy")


def _check_tail(os: Os, directory: str, uuid: bytes, known: set[int], seq: int, report: Report, events: list[Event]) -> int:
    """The segments that the catalog does not know. Returns the last seq."""
    for number in (n for n in log_numbers(os, f"{directory}/log") if n > max(known, default=0)):
        path = log_path(directory, number)      # the tail: recovered at the next opening
        try:
            segment = SegmentFile(os, path, uuid, number)
        except CdpError:
            continue                            # never had a durable header
        events += [Event(*e) for e in segment.scan(seq + 1, verify_data=True)]
        durable = segment.later_durable()
        if durable > max(seq, segment.last_seq):
            report.add(path, f"records that were durable (up to #{durable}) are damaged at byte {segment.end_bytes}: "
                       f"{segment.complaint() or 'frame header'}", "restore the file from a copy")
        _count(report, segment)
        seq = max(seq, segment.last_seq)
    return seq


def _count(report: Report, segment: SegmentFile) -> None:
    report.segments += 1
    report.frames += segment.n_frames
    report.records += segment.n_records
    report.bytes_read += segment.file_bytes


def _check_events(directory: str, catalog: Catalog, report: Report, events: list[Event], tail_from: int | None) -> None:
    """tail_from: first seq of the open part of the log, where that was read."""
    rows: list[Segment] = catalog.rows(Segment)
    restores: list[RestoreRow] = catalog.rows(RestoreRow)

    def read(seq: int) -> bool:
        return any(r.first_seq <= seq <= r.last_seq for r in rows) or (tail_from is not None and seq >= tail_from)

    for what in differences(events, catalog.rows(BookmarkRow), restores, catalog.rows(WritebackRow), read,
                            max((r.seq for r in restores if r.destructive), default=0), tail_from is not None):
        report.add(f"{directory}/catalog.lmdb", what, "run 'cdp check --rebuild'")


def _check_catalogued(os: Os, directory: str, uuid: bytes, catalog: Catalog, report: Report, progress: Progress | None,
                      events: list[Event]) -> int:
    """Sealed segments and runs; bookmarks and restores in them are added to `events`. Returns the last seq."""
    rows: list[Segment] = catalog.rows(Segment)
    restores: list[RestoreRow] = catalog.rows(RestoreRow)
    freed = [(r.target_seq, r.seq, r.start, r.end) for r in restores if r.destructive]
    free_gaps = gaps([RestoreRecord(r.seq, r.ts_ns, r.target_seq, r.start, r.end, r.destructive) for r in restores])
    runs: list[Run] = sorted(catalog.rows(Run), key=lambda r: r.first_seq)
    total = sum(r.file_bytes for r in rows) + sum(r.file_bytes for r in runs)
    seq, done = 0, 0
    for row in rows:
        path = log_path(directory, row.number)
        if row.first_seq > seq + 1 and not any(lo <= seq and row.first_seq <= hi for lo, hi in free_gaps):
            report.add(path, f"records #{seq + 1} to #{row.first_seq - 1} are missing before it", "put the segment before it back")
        try:
            segment = SegmentFile(os, path, uuid, row.number)
            _check_segment(segment, row, freed, report, events)
            _count(report, segment)
            segment.close()
        except CdpError as e:
            if row in catalog.rows(Segment):    # else it was freed meanwhile, of an open volume
                report.add(path, e.message, "put the file back from a copy")
        seq = row.last_seq
        done += row.file_bytes
        if progress:
            progress(done, total)
    covered = 0
    for run in runs:
        path = run_path(directory, run.id)
        if run.first_seq > covered + 1 and not any(lo <= covered and run.first_seq <= hi for lo, hi in free_gaps):
            report.add(path, f"the index lacks records #{covered + 1} to #{run.first_seq - 1}", "run 'cdp check --rebuild'")
        try:
            with index.Run(path, uuid) as opened:
                opened.verify()
        except CdpError as e:
            if run in catalog.rows(Run):        # else it was merged meanwhile
                report.add(path, e.message, "run 'cdp check --rebuild'")
        covered = run.last_seq
        report.runs += 1
        report.bytes_read += run.file_bytes
        done += run.file_bytes
        if progress:
            progress(done, total)
    if covered < seq:
        report.add(f"{directory}/runs", f"the index ends at #{covered}, the log at #{seq}", "run 'cdp check --rebuild'")
    return seq


def _check_segment(segment: SegmentFile, row: Segment, freed: list[tuple[int, int, int, int]], report: Report,
                   events: list[Event]) -> None:
    if not segment.sealed:
        report.add(segment.path, "the catalog says sealed, but there is no valid trailer", "put the file back from a copy")
        return
    promised = (segment.first_seq, segment.last_seq, segment.n_frames)
    directory = segment.directory()
    events += [Event(*e) for e in segment.scan(row.first_seq, verify_data=True, freed=freed)]
    if (segment.first_seq, segment.last_seq, segment.n_frames) != promised:
        why = segment.complaint() or f"bad frame at byte {segment.end_bytes}"
        report.add(segment.path, f"sound up to #{segment.last_seq} of #{promised[1]}: {why}", "put the file back from a copy")
    elif segment.directory() != directory:
        report.add(segment.path, "the directory of frames does not agree with the frames", "put the file back from a copy")
    elif (row.first_seq, row.last_seq) != promised[:2]:
        report.add(segment.path, f"the catalog says #{row.first_seq} to #{row.last_seq}, the file #{promised[0]} to #{promised[1]}",
                   "run 'cdp check --rebuild'")
    elif (row.first_ts_ns, row.last_ts_ns, row.file_bytes) != (segment.first_ts_ns, segment.last_ts_ns, segment.file_bytes):
        report.add(segment.path, "the catalog has other times or another size than the file", "run 'cdp check --rebuild'")


def rebuild(path: str | Path, *, settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """Make catalog and runs anew from volume.json and the log. The log is not changed, but for sealing what a crash left
    open. Raises Corruption where the log itself is damaged: nothing is changed then."""
    os, directory = posix(), absolute(path)
    tuning = Tuning.from_settings(checked(settings))
    held = _lock(os, directory)
    try:
        return _rebuild(os, directory, tuning, progress)
    finally:
        held.close()


def _rebuild(os: Os, directory: str, tuning: Tuning, progress: Progress | None) -> Report:
    geometry = geometries.load(os, directory)
    uuid = bytes.fromhex(geometry.uuid)
    report = Report()
    segments, events = _survey(os, directory, uuid, report, progress)
    stores.clear_rebuild(os, directory)
    new = f"{directory}/{stores.REBUILDING}"
    try:
        _fill(os, directory, uuid, new, segments, events, tuning, progress)
    except BaseException:       # also an interrupt
        stores.clear_rebuild(os, directory)
        raise
    old = f"{directory}/{stores.REPLACED}"
    if os.exists(f"{directory}/catalog.lmdb"):
        os.rename(f"{directory}/catalog.lmdb", old)
    os.rename(new, f"{directory}/catalog.lmdb")
    os.sync_dir(directory)
    stores.clear_rebuild(os, directory)
    # The index is new; whether the data that it leads to is sound is another question, and answered too.
    finished = Report()
    fresh = stores.lmdb_catalog(directory)
    try:
        try:
            _recover(os, directory, geometry, fresh, tuning)
        except CdpError as e:
            finished.add(f"{directory}/log", e.message, e.hint)
        found: list[Event] = []
        _check_catalogued(os, directory, uuid, fresh, finished, None, found)
        _check_events(directory, fresh, finished, found, None)
    finally:
        fresh.close()
    return finished


def _fill(os: Os, directory: str, uuid: bytes, new: str, segments: list[Segment], events: list[Event], tuning: Tuning,
          progress: Progress | None) -> None:
    """Pass 2: runs, and a catalog at `new` that has everything. Runs that no catalog knows are removed by the next opening."""
    used = [int(n[:-4]) for n in os.list_dir(f"{directory}/runs") if n.endswith(".run") and n[:-4].isdigit()]
    builder = _Runs(os, directory, uuid, max(used, default=0) + 1)
    for done, segment in enumerate(segments):
        opened = SegmentFile(os, log_path(directory, segment.number), uuid, segment.number)
        opened.scan(segment.first_seq, verify_data=False, tree_records=max(tuning.max_records, opened_records(opened)) + 64)
        builder.add(opened)
        opened.close()
        if progress:
            progress(len(segments) + done + 1, 2 * len(segments))
    os.sync_dir(f"{directory}/runs")
    with closing(LmdbCatalog(Path(new), create=True)) as catalog, catalog.write() as txn:
        for segment in segments:
            txn.put(segment)
        for run in builder.runs:
            txn.put(run)
        for event in events:
            apply_event(txn, event)


def _recover(os: Os, directory: str, geometry: Geometry, catalog: Catalog, tuning: Tuning) -> None:
    """What a crash left open, as opening the volume does it: with a disk in place, the disk is put back to where the log will end."""
    if not geometry.before:
        recover(os, directory, geometry, catalog, tuning)
        return
    with disks.open_disk(os, geometry.disk) as disk:
        disks.check_unchanged(os, directory, geometry.disk, disk, geometry.size_bytes)
        state = DiskState(os, f"{directory}/{disks.STATE}", bytes.fromhex(geometry.uuid))
        try:
            state.watch(disk)
            recover(os, directory, geometry, catalog, tuning, disk, state)
        finally:
            state.close()


def opened_records(segment: SegmentFile) -> int:
    """An upper bound of a segment's records, for one that was written with other settings."""
    return int(segment.last_seq - segment.first_seq + 1) if segment.sealed and segment.last_seq >= segment.first_seq else 0


def _survey(os: Os, directory: str, uuid: bytes, report: Report, progress: Progress | None) -> tuple[list[Segment], list[Event]]:
    """Pass 1: every segment that is sealed, checked frame by frame; the bookmarks and restores in them."""
    numbers = log_numbers(os, f"{directory}/log")
    rows: list[Segment] = []
    events: list[Event] = []
    tail: list[Event] = []
    for done, number in enumerate(numbers):
        path = log_path(directory, number)
        try:
            segment = SegmentFile(os, path, uuid, number)
        except Corruption:
            if number != numbers[-1]:
                raise
            break                       # was being created when the power went
        if not segment.sealed:          # the tail: recovered in the end
            segment.close()
            tail = _tail_events(os, directory, uuid, [n for n in numbers if n >= number])
            break
        promised = segment.last_seq
        found = segment.scan(segment.first_seq, verify_data=False)
        if segment.last_seq != promised:
            raise Corruption(f"{path}: damaged at byte {segment.end_bytes}", "put the file back from a copy, then rebuild")
        events += [Event(*e) for e in found if e[1] <= segment.last_seq]
        rows.append(Segment(number, segment.first_seq, segment.last_seq, segment.first_ts_ns, segment.last_ts_ns, segment.file_bytes))
        _count(report, segment)
        segment.close()
        if progress:
            progress(done + 1, 2 * len(numbers))
    _check_missing(directory, rows, events + tail)
    return rows, events


def _tail_events(os: Os, directory: str, uuid: bytes, numbers: list[int]) -> list[Event]:
    """Bookmarks and restores of segments that a crash left open: what these restores freed may be gone already."""
    events: list[Event] = []
    for number in numbers:
        try:
            segment = SegmentFile(os, log_path(directory, number), uuid, number)
        except Corruption:
            break
        events += [Event(*e) for e in segment.scan(0, verify_data=False)]
        segment.close()
    return events


def _check_missing(directory: str, rows: list[Segment], events: list[Event]) -> None:
    """Gaps in the log must be those that destructive restores made."""
    records = []
    for e in events:
        if e.kind == RESTORE:
            target, flags, _ = RESTORE_DATA.unpack_from(e.data)
            records.append(RestoreRecord(e.seq, e.ts_ns, target, e.start, e.start + e.sectors, bool(flags & 1)))
    free = gaps(records)
    seq = 0
    for row in rows:
        if row.first_seq > seq + 1 and not any(lo <= seq and row.first_seq <= hi for lo, hi in free):
            raise Corruption(f"{directory}/log: records #{seq + 1} to #{row.first_seq - 1} are missing",
                             "put the missing segment files back, then rebuild")
        seq = row.last_seq


class _Runs:
    """Runs made in seq order, merged in tiers as they come."""

    def __init__(self, os: Os, directory: str, uuid: bytes, first_id: int):
        self._os, self._dir, self._uuid, self._next = os, directory, uuid, first_id
        self.runs: list[Run] = []

    def add(self, segment: SegmentFile) -> None:
        if segment.last_seq < segment.first_seq:
            return
        path = run_path(self._dir, self._next)
        segment.write_run(path)
        self._append(Run(self._next, segment.first_seq, segment.last_seq, segment.number, segment.number, 0, self._os.size(path)))
        while len(self.runs) >= MERGE_AT and len({r.level for r in self.runs[-MERGE_AT:]}) == 1:
            self._merge(self.runs[-MERGE_AT:])

    def _append(self, run: Run) -> None:
        self.runs.append(run)
        self._next += 1

    def _merge(self, group: list[Run]) -> None:
        path = run_path(self._dir, self._next)
        opened = [index.Run(run_path(self._dir, r.id), self._uuid) for r in group]
        seqs, segments = (group[0].first_seq, group[-1].last_seq), (group[0].first_segment, group[-1].last_segment)
        index.merge(path, opened, self._uuid, seqs, segments)
        for run in opened:
            run.close()
        del self.runs[-len(group):]
        self._append(Run(self._next, *seqs, *segments, group[0].level + 1, self._os.size(path)))
        for r in group:
            self._os.unlink(run_path(self._dir, r.id))
