"""Recovery: what the log holds behind the last segment that the catalog knows.

At most two segments: the open one, and one that was set aside for sealing when the power went. Each is scanned frame by
frame, checksums of data included; what is found is always a prefix in seq order. The file is then cut behind its last
valid frame, sealed, indexed and catalogued like any other, so that a stale frame can never come back to life, and
writing goes on in a new segment.

A frame that does not check is a torn tail, which is normal, unless a later frame says that it had been made durable:
then something else damaged it, and nothing is cut.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cdp.moments.lineage import NOW
from cdp.moments.model import ClockStep
from cdp.store import spare_files
from cdp.store.catalog import Catalog, Run, Segment
from cdp.store.description import Geometry
from cdp.store.layout import segment_numbers
from cdp.store.maintenance import merge_group
from cdp.store.records import Event, apply_event
from cdp.store.timeline import Timeline
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Busy, CdpError, Corruption, OutOfSpace, Unavailable
from cdpcore.index import inspect as index
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import Os, PosixOs

HEADER_BYTES, PIECE_BYTES = 4096, 1 << 20
MERGE_FROM = 48     # runs; an index holds 64
WRITES_SECONDS, PAUSE_SECONDS = 30.0, 0.002
T = TypeVar("T")


@dataclass
class Found:
    """Where the log ends."""

    last_seq: int
    last_ts_ns: int
    flush_seq: int
    next_number: int


def clean(os: Os, files: VolumeFiles, run_ids: set[int]) -> None:
    """Remove what an interrupted seal, merge or image deletion left: files that the catalog does not know."""
    for name in os.list_dir(files.runs):
        if not (name.endswith(".run") and name[:-4].isdigit() and int(name[:-4]) in run_ids):
            os.unlink(f"{files.runs}/{name}")


def recover(os: Os, files: VolumeFiles, geometry: Geometry, catalog: Catalog, tuning: Tuning, until: int = NOW,
            prepare: Callable[[list[int], Found], list[int]] | None = None) -> Found:
    """Bring the catalog up to the end of the log; see the module. Raises Corruption and changes nothing then.

    until: the log ends there, and what follows is cut. prepare: called before anything is changed, with the numbers of
    the segments behind the catalog and where that ends; returns the numbers of those that are left.
    """
    runs: list[Run] = catalog.rows(Run)
    clean(os, files, {r.id for r in runs})
    found, tail = _end_of_catalog(os, files, geometry, catalog)
    for number in tail:
        _wait_for_writes(os, files.segment(number))
    if prepare is None:
        _look_ahead(os, files, geometry, tail, found.last_seq)
    else:
        tail = prepare(tail, found)
    torn = False
    for number in tail:
        found.next_number = max(found.next_number, number + 1)
        torn = _adopt(os, files, geometry, catalog, tuning, number, found, torn, until) or torn
        _merge(os, files, geometry, catalog, tuning)
    return found


def look(os: Os, files: VolumeFiles, geometry: Geometry, catalog: Catalog) -> Found:
    """As recover, where nothing may be written: raises Unavailable where there is something to recover."""
    found, tail = _end_of_catalog(os, files, geometry, catalog)
    for number in tail:
        path = files.segment(number)
        try:
            segment = SegmentFile(os, path, bytes.fromhex(geometry.uuid), number)
        except Corruption:
            continue            # was being made when the power went, or judged when it is recovered
        segment.scan(found.last_seq + 1, verify_data=False)
        if segment.n_records or segment.later_durable():
            raise Unavailable(f"{files.directory}: was not closed, and its log must be recovered, which writes",
                              "open it once where it can be written ('cdp info' does), then again here")
        segment.close()
    return found


def _end_of_catalog(os: Os, files: VolumeFiles, geometry: Geometry, catalog: Catalog) -> tuple[Found, list[int]]:
    """Where the catalogued part of the log ends; the numbers of the files behind it."""
    rows: list[Segment] = catalog.rows(Segment)
    last = max((r for r in rows if r.last_seq >= r.first_seq), key=lambda r: r.number, default=None)
    found = Found(0, geometry.created_ns, 0, 1)
    if last:
        found.last_seq, found.last_ts_ns = last.last_seq, last.last_ts_ns
        timeline = Timeline(os, files, bytes.fromhex(geometry.uuid), geometry.start, rows)
        found.flush_seq = timeline.last_flush(last.last_seq)
    newest = max((r.number for r in rows), default=0)
    found.next_number = newest + 1
    return found, [n for n in segment_numbers(os, files) if n > newest]


def _wait_for_writes(os: Os, path: str) -> None:
    """Writes that were in flight when a process was killed go on in the kernel, and keep the lock that the process had
    on the file. They end before the file is read, cut and sealed."""
    until = time.monotonic() + WRITES_SECONDS
    with os.open(path) as file:
        while True:
            try:
                return file.lock()
            except Busy:
                if time.monotonic() > until:
                    raise
                time.sleep(PAUSE_SECONDS)
            except CdpError:
                return      # a file system without locks


def _look_ahead(os: Os, files: VolumeFiles, geometry: Geometry, tail: list[int], seq: int) -> None:
    """Where the log is in more than one file, what one of them says of durability may be about another: find where the
    prefix ends, and whether anything behind it claims more, before the first byte is changed."""
    durable, culprit = 0, ""
    for number in tail if len(tail) > 1 else []:
        path = files.segment(number)
        try:
            segment = SegmentFile(os, path, bytes.fromhex(geometry.uuid), number)
        except Corruption:
            continue        # judged when it is its turn
        try:
            segment.scan(seq + 1, verify_data=not segment.sealed)
            if segment.n_records:
                seq, culprit = segment.last_seq, f"{path}: byte {segment.end_bytes}"
            durable = max(durable, segment.later_durable())
        finally:
            segment.close()
    if durable > seq:
        raise Corruption(f"{culprit or files.directory}: records that were durable (up to #{durable}) are damaged; the "
                         f"log is sound up to #{seq}",
                         "run 'cdp check' on the volume; nothing was changed")


def _adopt(os: Os, files: VolumeFiles, geometry: Geometry, catalog: Catalog, tuning: Tuning, number: int, found: Found,
           torn: bool, until: int) -> bool:
    """One segment file behind the catalog. Returns whether the log ends here."""
    path = files.segment(number)
    try:
        segment = SegmentFile(os, path, bytes.fromhex(geometry.uuid), number, writable=True)
    except Corruption as e:
        # Power was lost while the file was being created: its header was durable before the first frame was written.
        if has_data(os, path):
            raise Corruption(f"{e.message}, but it has records",
                             "put the file back from a copy; nothing was changed") from None
        os.unlink(path)
        os.sync_dir(files.log)
        return True
    try:
        promised = segment.last_seq if segment.sealed else 0
        whole = segment.sealed and segment.ends_whole()     # else its end is written again, from its frames
        events = segment.scan(found.last_seq + 1, verify_data=not whole or until != NOW,
                              tree_records=tuning.max_records + 64, until=until)
        if segment.sealed and segment.last_seq != promised:     # all of it was durable before the trailer was
            raise Corruption(f"{path}: sealed up to #{promised}, damaged at byte {segment.end_bytes}",
                             "put the file back from a copy; nothing was changed")
        if until == NOW and (segment.n_records == 0 or torn or not segment.sealed):
            durable = segment.later_durable()
            if durable > (segment.last_seq if segment.n_records else found.last_seq):
                raise Corruption(f"{path}: records that were durable (up to #{durable}) are damaged at byte "
                                 f"{segment.end_bytes}{': ' + segment.complaint() if segment.complaint() else ''}",
                                 "run 'cdp check' on the volume; nothing was changed")
        if segment.n_records == 0 or torn:
            segment.close()
            os.unlink(path)
            os.sync_dir(files.log)
            return torn
        if until != NOW and segment.later_durable() > segment.last_seq:
            segment.cut()       # before anything is written over what it was
        size = _with_reserve(os, files, segment.seal)
        run_id = max((r.id for r in catalog.rows(Run)), default=0) + 1
        _with_reserve(os, files, lambda: spare_files.making(
            os, files, lambda: segment.write_run(files.run(run_id)), recovering=True))
        os.sync_dir(files.runs)
        with catalog.write() as txn:
            txn.put(Segment(number, segment.first_seq, segment.last_seq, segment.first_ts_ns, segment.last_ts_ns, size))
            txn.put(Run(run_id, segment.first_seq, segment.last_seq, number, number, 0, os.size(files.run(run_id))))
            for event in (Event(*e) for e in events):
                if event.seq <= segment.last_seq:
                    apply_event(txn, event)
            for step in clock_steps(segment, found.last_ts_ns):
                txn.put(step)
        found.last_seq, found.last_ts_ns = segment.last_seq, segment.last_ts_ns
        found.flush_seq = max(found.flush_seq, segment.flush_seq)
        return False
    finally:
        segment.close()


def _merge(os: Os, files: VolumeFiles, geometry: Geometry, catalog: Catalog, tuning: Tuning) -> None:
    """Of a copy of the log, recovery may find any number of segments: an index has room for 64 runs. (A volume of the
    simulation is no copy.)"""
    runs: list[Run] = sorted(catalog.rows(Run), key=lambda run: run.first_seq)
    if len(runs) < MERGE_FROM or not isinstance(os, PosixOs) or not (group := merge_group(runs, tuning.merge_fanin)):
        return
    uuid, path = bytes.fromhex(geometry.uuid), files.run(max(run.id for run in runs) + 1)
    opened = [index.Run(files.run(run.id), uuid) for run in group]
    try:
        seqs, segments = (group[0].first_seq, group[-1].last_seq), (group[0].first_segment, group[-1].last_segment)
        index.merge(path, opened, uuid, seqs, segments)
    finally:
        for run in opened:
            run.close()
    os.sync_dir(files.runs)
    with catalog.write() as txn:
        for row in group:
            txn.remove(Run, row.id)
        txn.put(Run(max(run.id for run in runs) + 1, *seqs, *segments, group[0].level + 1, os.size(path)))
    for row in group:
        os.unlink(files.run(row.id))


def _with_reserve(os: Os, files: VolumeFiles, work: Callable[[], T]) -> T:
    """work(), and again without the reserve where there is no space. For directory and trailer: a power cut may have
    lost the growth of the file that had room for them. For the run: what a server that was killed had kept for it is
    anybody's once the file is cut."""
    try:
        return work()
    except OutOfSpace:
        if not os.exists(files.reserve):
            raise
        os.unlink(files.reserve)
        return work()


def clock_steps(segment: SegmentFile, before_ns: int) -> list[ClockStep]:
    """Of a segment that was scanned. before_ns: the time of the record before its first."""
    steps = [ClockStep(*s) for s in segment.clock_steps]
    if segment.n_records and segment.first_ts_ns <= before_ns:
        steps.insert(0, ClockStep(segment.first_seq, before_ns, segment.first_ts_ns))
    return steps


def has_data(os: Os, path: str) -> bool:
    """Is there anything but zeros behind the header of this segment file?"""
    with os.open(path) as file:
        at = HEADER_BYTES
        while extent := file.next_data(at):
            piece = file.pread(min(PIECE_BYTES, extent[1] - extent[0]), extent[0])
            if piece.count(0) != len(piece):
                return True
            at = extent[0] + len(piece)
    return False
