"""Check a volume: every checksum of log, runs and catalog, and whether they agree.

Writes nothing but when it was and what it found (scrub.json), and works on a volume that can no longer be opened.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdp.check.catalog import differences
from cdp.check.scrub import outside_log
from cdp.moments.lineage import gaps
from cdp.moments.model import ClockStep
from cdp.settings import Settings
from cdp.store import description as geometries
from cdp.store import kinds, layout, thinned_file
from cdp.store.catalog import BookmarkRow, Catalog, RestoreRow, Run, Segment, WritebackRow, lmdb_catalog_to_read
from cdp.store.description import Geometry
from cdp.store.layout import segment_numbers
from cdp.store.records import Event
from cdp.store.recovery import clock_steps
from cdp.store.scrub_file import ScrubState, save
from cdp.store.volume_files import VolumeFiles
from cdp.text.paths import absolute
from cdpcore.base.errors import CdpError, NotFound
from cdpcore.index import inspect as index
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import Os, posix

if TYPE_CHECKING:
    from cdp.volume.volume import Volume

Progress = Callable[[int, int], None]


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
    """Check a volume that no process has open, and its images. Raises NotFound, Busy; everything else is in the
    report."""
    os, files = posix(), VolumeFiles(absolute(path))
    report, began_ns = Report(), time.time_ns()
    held = lock_existing(os, files, read_only=True)
    try:
        _check_directory(os, files, report, progress)
        _note(os, files, report, began_ns)
    finally:
        held.close()
    for name in os.list_dir(files.images):
        if not name.startswith("."):
            inner = check(files.image(name), settings=settings, progress=progress)
            report.problems += inner.problems
            report.ok = report.ok and inner.ok
            for key in ("segments", "frames", "records", "runs", "bytes_read"):
                setattr(report, key, getattr(report, key) + getattr(inner, key))
    return report


def _note(os: Os, files: VolumeFiles, report: Report, began_ns: int) -> None:
    """For 'cdp info': a check counts as a scrub. Not on a read-only medium."""
    found = ScrubState(began_ns=began_ns, bytes_read=report.bytes_read)
    for problem in report.problems:
        found = found.found(problem.where, problem.what, problem.hint)
    with suppress(CdpError):
        save(os, files, found.ended(time.time_ns()))


def check_open(volume: Volume, progress: Progress | None = None) -> Report:
    """Check an open volume beside its I/O: what is sealed by now, and the base, or the protected disk, as far as there
    are checksums of it."""
    report = Report()
    volume.flush()
    store = volume._store
    check_catalogued(store.os, store.files, store.geometry, store.catalog, report, progress, [],    # events go on
                     lambda: store.thinned.upto)
    report.bytes_read += outside_log(volume, report.add)
    return report


def lock_existing(os: Os, files: VolumeFiles, read_only: bool = False) -> Any:
    if not os.exists(files.lock):
        raise NotFound(f"{files.directory}: no such volume", "make one with 'cdp create'")
    return layout.lock(os, files, read_only)


def _check_directory(os: Os, files: VolumeFiles, report: Report, progress: Progress | None) -> None:
    try:
        geometry = geometries.load(os, files)
    except CdpError as e:
        report.add(files.description, e.message, e.hint)
        return
    try:
        upto = thinned_file.load(os, files, geometry).upto
    except CdpError as e:
        report.add(files.thinned, e.message, e.hint)
        return
    uuid = bytes.fromhex(geometry.uuid)
    try:
        catalog = lmdb_catalog_to_read(files.directory)
    except CdpError as e:
        report.add(files.catalog, e.message, e.hint)
        return
    try:
        events: list[Event] = []
        seq = check_catalogued(os, files, geometry, catalog, report, progress, events, lambda: upto)
        end = _check_tail(os, files, uuid, {r.number for r in catalog.rows(Segment)}, seq, report, events)
        kinds.of(os, files, geometry).check((seq, end), catalog, events, report.add)
        check_events(files, geometry, catalog, report, events, seq + 1)
    except CdpError as e:
        report.add(files.catalog, e.message, "run 'cdp check --rebuild'")
        return
    finally:
        catalog.close()


def _check_tail(os: Os, files: VolumeFiles, uuid: bytes, known: set[int], seq: int, report: Report,
                events: list[Event]) -> int:
    """The segments that the catalog does not know. Returns the last seq."""
    for number in (n for n in segment_numbers(os, files) if n > max(known, default=0)):
        path = files.segment(number)      # the tail: recovered at the next opening
        try:
            segment = SegmentFile(os, path, uuid, number)
        except CdpError:
            continue                            # never had a durable header
        events += [Event(*e) for e in segment.scan(seq + 1, verify_data=True)]
        durable = segment.later_durable()
        if durable > max(seq, segment.last_seq):
            report.add(path, f"records that were durable (up to #{durable}) are damaged at byte {segment.end_bytes}: "
                       f"{segment.complaint() or 'frame header'}", "restore the file from a copy")
        count(report, segment)
        seq = max(seq, segment.last_seq)
    return seq


def count(report: Report, segment: SegmentFile) -> None:
    report.segments += 1
    report.frames += segment.n_frames
    report.records += segment.n_records
    report.bytes_read += segment.file_bytes


def check_events(files: VolumeFiles, geometry: Geometry, catalog: Catalog, report: Report, events: list[Event],
                 tail_from: int | None) -> None:
    """tail_from: first seq of the open part of the log, where that was read."""
    rows: list[Segment] = catalog.rows(Segment)
    restores: list[RestoreRow] = catalog.rows(RestoreRow)

    def read(seq: int) -> bool:
        return any(r.first_seq <= seq <= r.last_seq for r in rows) or (tail_from is not None and seq >= tail_from)

    for what in differences(events, catalog.rows(BookmarkRow), restores, catalog.rows(WritebackRow), read,
                            max((r.seq for r in restores if r.destructive), default=0),
                            tail_from is not None):
        report.add(files.catalog, what, "run 'cdp check --rebuild'")


def check_catalogued(os: Os, files: VolumeFiles, geometry: Geometry, catalog: Catalog, report: Report,
                     progress: Progress | None, events: list[Event], thinned_upto: Callable[[], int]) -> int:
    """Sealed segments and runs; bookmarks and restores in them are added to `events`. thinned_upto: the record up to
    which data may have been freed by thinning, 0: none. Returns the last seq."""
    uuid = bytes.fromhex(geometry.uuid)
    rows: list[Segment] = catalog.rows(Segment)
    steps: list[ClockStep] = catalog.rows(ClockStep)
    restores: list[RestoreRow] = catalog.rows(RestoreRow)
    freed = [(r.target_seq, r.seq, r.start, r.end) for r in restores if r.destructive]
    free_gaps = gaps(r.in_lineage() for r in restores)
    runs: list[Run] = sorted(catalog.rows(Run), key=lambda r: r.first_seq)
    total = sum(r.file_bytes for r in rows) + sum(r.file_bytes for r in runs)
    seq, done = gone_before(geometry, rows), 0
    last_ts_ns = geometry.start_ts_ns if seq and seq == geometry.start_seq else None
    for row in rows:
        path = files.segment(row.number)
        if row.first_seq > seq + 1 and not any(lo <= seq and row.first_seq <= hi for lo, hi in free_gaps):
            report.add(path, f"records #{seq + 1} to #{row.first_seq - 1} are missing before it",
                       "put the segment before it back")
        try:
            upto, found = -1, Report()
            while upto != thinned_upto() and not (upto >= 0 and found.ok):     # it may go on meanwhile
                upto, found, here = thinned_upto(), Report(), list[Event]()
                segment = SegmentFile(os, path, uuid, row.number)
                gone = [*freed, (0, upto + 1, 0, 1 << 55)] if upto and segment.has_table else freed
                sound = _check_segment(segment, row, gone, found, here)
            report.problems += found.problems
            report.ok = report.ok and found.ok
            events += here
            if sound:
                before_ns = segment.created_ns if not seq else last_ts_ns if row.first_seq == seq + 1 else None
                _check_steps(segment, before_ns, steps, report)
            count(report, segment)
            segment.close()
        except CdpError as e:
            if row in catalog.rows(Segment):    # else it was freed meanwhile, of an open volume
                report.add(path, e.message, "put the file back from a copy")
        seq, last_ts_ns = row.last_seq, row.last_ts_ns
        done += row.file_bytes
        if progress:
            progress(done, total)
    covered = gone_before(geometry, rows)
    for run in runs:
        path = files.run(run.id)
        if run.first_seq > covered + 1 and not any(lo <= covered and run.first_seq <= hi for lo, hi in free_gaps):
            report.add(path, f"the index lacks records #{covered + 1} to #{run.first_seq - 1}",
                       "run 'cdp check --rebuild'")
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
        report.add(files.runs, f"the index ends at #{covered}, the log at #{seq}", "run 'cdp check --rebuild'")
    return seq


def gone_before(geometry: Geometry, rows: list[Segment]) -> int:
    """The log may begin after this record: older ones were given up. rows: its segments."""
    first_seq = next((r.first_seq for r in rows if r.last_seq >= r.first_seq), 1)
    return min(geometry.start_seq, first_seq - 1)


def _check_segment(segment: SegmentFile, row: Segment, freed: list[tuple[int, int, int, int]], report: Report,
                   events: list[Event]) -> bool:
    """Whether the file is sound."""
    if not segment.sealed:
        report.add(segment.path, "the catalog says sealed, but there is no valid trailer",
                   "put the file back from a copy")
        return False
    promised = (segment.first_seq, segment.last_seq, segment.n_frames)
    directory = segment.directory()
    events += [Event(*e) for e in segment.scan(row.first_seq, verify_data=True, freed=freed)]
    if (segment.first_seq, segment.last_seq, segment.n_frames) != promised:
        why = segment.complaint() or f"bad frame at byte {segment.end_bytes}"
        report.add(segment.path, f"sound up to #{segment.last_seq} of #{promised[1]}: {why}",
                   "put the file back from a copy")
    elif segment.directory() != directory:
        report.add(segment.path, "the directory of frames does not agree with the frames",
                   "put the file back from a copy")
    elif wrong := segment.wrong_blocks(bool(freed)):
        for offset, what in wrong:
            report.add(segment.path, f"byte {offset}: {what}", "put the file back from a copy")
    elif (row.first_seq, row.last_seq) != promised[:2]:
        report.add(segment.path,
                   f"the catalog says #{row.first_seq} to #{row.last_seq}, the file #{promised[0]} to #{promised[1]}",
                   "run 'cdp check --rebuild'")
    elif (row.first_ts_ns, row.last_ts_ns, row.file_bytes) != (segment.first_ts_ns, segment.last_ts_ns,
                                                               segment.file_bytes):
        report.add(segment.path, "the catalog has other times or another size than the file",
                   "run 'cdp check --rebuild'")
    return (segment.first_seq, segment.last_seq, segment.n_frames) == promised


def _check_steps(segment: SegmentFile, before_ns: int | None, steps: list[ClockStep], report: Report) -> None:
    """before_ns: the time of the record before the segment's first; None: it was freed."""
    first_seq = segment.first_seq if before_ns is not None else segment.first_seq + 1
    if clock_steps(segment, before_ns or 0) != [s for s in steps if first_seq <= s.seq <= segment.last_seq]:
        report.add(segment.path, "the catalog has other steps of the clock than the file", "run 'cdp check --rebuild'")
