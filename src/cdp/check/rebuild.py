"""Rebuild: catalog and runs anew, from volume.json and the log alone.

The catalog that was there is kept as catalog.lmdb.old until the new one is complete. The log is not changed, but for
sealing what a crash left open.
"""
from __future__ import annotations

from contextlib import closing
from pathlib import Path

from cdp.check.check import Progress, Report, check_catalogued, check_events, count, gone_before, lock_existing
from cdp.moments.lineage import gaps
from cdp.moments.model import ClockStep
from cdp.settings import Settings, checked
from cdp.store import description as geometries
from cdp.store import kinds, thinned_file
from cdp.store.catalog import Catalog, LmdbCatalog, Run, Segment, lmdb_catalog
from cdp.store.description import Geometry
from cdp.store.layout import clear_rebuild, run_ids, segment_numbers
from cdp.store.records import Event, apply_event
from cdp.store.recovery import clock_steps
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdp.text.paths import absolute
from cdpcore.base.errors import CdpError, Corruption
from cdpcore.index import inspect as index
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import Os, posix

MERGE_AT = 8    # rebuild merges as it goes, so that it never has more than some dozens of runs


def rebuild(path: str | Path, *, settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """Make catalog and runs anew from volume.json and the log. The log is not changed, but for sealing what a crash
    left open. Raises Corruption where the log itself is damaged: nothing is changed then."""
    os, files = posix(), VolumeFiles(absolute(path))
    tuning = Tuning.from_settings(checked(settings))
    held = lock_existing(os, files)
    try:
        return _rebuild(os, files, tuning, progress)
    finally:
        held.close()


def make_index(path: str, os: Os, settings: Settings | None = None) -> None:
    """Catalog and runs of a folder that has a description and a log, and nobody else uses. No data of writes is read,
    but of what is sealed here. Raises Corruption."""
    files, tuning = VolumeFiles(absolute(path)), Tuning.from_settings(checked(settings))
    with closing(lock_existing(os, files)):
        geometry = _renew(os, files, Report(), tuning, None)
        with closing(lmdb_catalog(files.directory)) as catalog:
            _recover(os, files, geometry, catalog, tuning)


def _renew(os: Os, files: VolumeFiles, report: Report, tuning: Tuning, progress: Progress | None) -> Geometry:
    """A new catalog, and new runs, of what is sealed."""
    geometry = geometries.load(os, files)
    uuid = bytes.fromhex(geometry.uuid)
    segments, events, steps = _survey(os, files, geometry, report, progress)
    clear_rebuild(os, files)
    try:
        _fill(os, files, uuid, segments, events, steps, tuning, progress)
    except BaseException:       # also an interrupt
        clear_rebuild(os, files)
        raise
    if os.exists(files.catalog):
        os.rename(files.catalog, files.catalog_replaced)
    os.rename(files.catalog_rebuilding, files.catalog)
    os.sync_dir(files.directory)
    clear_rebuild(os, files)
    return geometry


def _rebuild(os: Os, files: VolumeFiles, tuning: Tuning, progress: Progress | None) -> Report:
    upto = thinned_file.load(os, files, geometries.load(os, files)).upto
    geometry = _renew(os, files, Report(), tuning, progress)
    # The index is new; whether the data that it leads to is sound is another question, and answered too.
    finished = Report()
    fresh = lmdb_catalog(files.directory)
    try:
        try:
            _recover(os, files, geometry, fresh, tuning)
        except CdpError as e:
            finished.add(files.log, e.message, e.hint)
        found: list[Event] = []
        check_catalogued(os, files, geometry, fresh, finished, None, found, lambda: upto)
        check_events(files, geometry, fresh, finished, found, None)
    finally:
        fresh.close()
    return finished


def _fill(os: Os, files: VolumeFiles, uuid: bytes, segments: list[Segment], events: list[Event],
          steps: list[ClockStep], tuning: Tuning, progress: Progress | None) -> None:
    """Pass 2: runs, and a new catalog that has everything. Runs that no catalog knows are removed by the next
    opening."""
    builder = _Runs(os, files, uuid, max(run_ids(os, files), default=0) + 1)
    for done, segment in enumerate(segments):
        opened = SegmentFile(os, files.segment(segment.number), uuid, segment.number)
        opened.scan(segment.first_seq, verify_data=False,
                    tree_records=max(tuning.max_records, opened_records(opened)) + 64)
        builder.add(opened)
        opened.close()
        if progress:
            progress(len(segments) + done + 1, 2 * len(segments))
    os.sync_dir(files.runs)
    with closing(LmdbCatalog(Path(files.catalog_rebuilding), create=True)) as catalog, catalog.write() as txn:
        for segment in segments:
            txn.put(segment)
        for run in builder.runs:
            txn.put(run)
        for event in events:
            apply_event(txn, event)
        for step in steps:
            txn.put(step)


def _recover(os: Os, files: VolumeFiles, geometry: Geometry, catalog: Catalog, tuning: Tuning) -> None:
    """What a crash left open, as opening the volume does it: with a disk in place, the disk is put back to where the
    log will end."""
    kind = kinds.of(os, files, geometry)
    try:
        kind.open()
        kind.recover(catalog, tuning)
    finally:
        kind.close()


def opened_records(segment: SegmentFile) -> int:
    """An upper bound of a segment's records, for one that was written with other settings."""
    if not segment.sealed or segment.last_seq < segment.first_seq:
        return 0
    return int(segment.last_seq - segment.first_seq + 1)


def _survey(os: Os, files: VolumeFiles, geometry: Geometry, report: Report,
            progress: Progress | None) -> tuple[list[Segment], list[Event], list[ClockStep]]:
    """Pass 1: every segment that is sealed, checked frame by frame; the bookmarks and restores in them, and where the
    clock went back."""
    numbers, uuid = segment_numbers(os, files), bytes.fromhex(geometry.uuid)
    steps: list[ClockStep] = []
    last_ts_ns = geometry.created_ns
    rows: list[Segment] = []
    events: list[Event] = []
    tail: list[Event] = []
    for done, number in enumerate(numbers):
        path = files.segment(number)
        try:
            segment = SegmentFile(os, path, uuid, number)
        except Corruption:
            if number != numbers[-1]:
                raise
            break                       # was being created when the power went
        if not segment.sealed:          # the tail: recovered in the end
            segment.close()
            tail = _tail_events(os, files, uuid, [n for n in numbers if n >= number])
            break
        promised = segment.last_seq
        found = segment.scan(segment.first_seq, verify_data=False)
        if segment.last_seq != promised:
            raise Corruption(f"{path}: damaged at byte {segment.end_bytes}",
                             "put the file back from a copy, then rebuild")
        events += [Event(*e) for e in found if e[1] <= segment.last_seq]
        if segment.first_seq == geometry.start_seq + 1:
            last_ts_ns = geometry.start.ts_ns
        steps += clock_steps(segment, last_ts_ns)
        last_ts_ns = segment.last_ts_ns if segment.n_records else last_ts_ns
        rows.append(Segment(number, segment.first_seq, segment.last_seq, segment.first_ts_ns, segment.last_ts_ns,
                            segment.file_bytes))
        count(report, segment)
        segment.close()
        if progress:
            progress(done + 1, 2 * len(numbers))
    _check_missing(files, geometry, rows, events + tail)
    return rows, events, steps


def _tail_events(os: Os, files: VolumeFiles, uuid: bytes, numbers: list[int]) -> list[Event]:
    """Bookmarks and restores of segments that a crash left open: what these restores freed may be gone already."""
    events: list[Event] = []
    for number in numbers:
        try:
            segment = SegmentFile(os, files.segment(number), uuid, number)
        except Corruption:
            break
        events += [Event(*e) for e in segment.scan(0, verify_data=False)]
        segment.close()
    return events


def _check_missing(files: VolumeFiles, geometry: Geometry, rows: list[Segment], events: list[Event]) -> None:
    """Gaps in the log must be those that destructive restores made; it begins with the first record, or at most behind
    the oldest moment."""
    free = gaps(row.in_lineage() for row in (e.restore() for e in events) if row is not None)
    seq = gone_before(geometry, rows)
    for row in rows:
        if row.first_seq > seq + 1 and not any(lo <= seq and row.first_seq <= hi for lo, hi in free):
            raise Corruption(f"{files.log}: records #{seq + 1} to #{row.first_seq - 1} are missing",
                             "put the missing segment files back, then rebuild")
        seq = row.last_seq


class _Runs:
    """Runs made in seq order, merged in tiers as they come."""

    def __init__(self, os: Os, files: VolumeFiles, uuid: bytes, first_id: int):
        self._os, self._files, self._uuid, self._next = os, files, uuid, first_id
        self.runs: list[Run] = []

    def add(self, segment: SegmentFile) -> None:
        if segment.last_seq < segment.first_seq:
            return
        path = self._files.run(self._next)
        segment.write_run(path)
        self._append(Run(self._next, segment.first_seq, segment.last_seq, segment.number, segment.number, 0,
                         self._os.size(path)))
        while len(self.runs) >= MERGE_AT and len({r.level for r in self.runs[-MERGE_AT:]}) == 1:
            self._merge(self.runs[-MERGE_AT:])

    def _append(self, run: Run) -> None:
        self.runs.append(run)
        self._next += 1

    def _merge(self, group: list[Run]) -> None:
        path = self._files.run(self._next)
        opened = [index.Run(self._files.run(r.id), self._uuid) for r in group]
        seqs, segments = (group[0].first_seq, group[-1].last_seq), (group[0].first_segment, group[-1].last_segment)
        index.merge(path, opened, self._uuid, seqs, segments)
        for run in opened:
            run.close()
        del self.runs[-len(group):]
        self._append(Run(self._next, *seqs, *segments, group[0].level + 1, self._os.size(path)))
        for r in group:
            self._os.unlink(self._files.run(r.id))
