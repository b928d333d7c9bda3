"""Going on with a protected disk that others changed: which of its blocks, and records that say so.

compare   the disk is read, against the table of its checksums (cdp.store.disk_table); changes nothing
go_on     FOREIGN records name the blocks that differ, or are not known: what they held is lost, and reading it at an
          earlier moment fails; all else of the history stays (docs/format.md, *Adoption*). May be repeated after a
          crash: until it is through, the volume does not open

The volume is wanted alone. Any thread.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cdp.moments.records import RESTORE, RESTORED
from cdp.store import description as geometries
from cdp.store import layout
from cdp.store import protected_disk as disks
from cdp.store.catalog import Catalog, CatalogFactory, RestoreRow, Segment, WritebackRow
from cdp.store.description import GOES_ON, Geometry
from cdp.store.disk_table import PAGE_BYTES, later_segments, merged
from cdp.store.kinds import written_back_seq
from cdp.store.recovery import has_data
from cdp.store.store import Store
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption, InvalidRequest, NotFound
from cdpcore.base.stages import Stages
from cdpcore.inplace.disk import Disk
from cdpcore.inplace.disk_state import DiskState
from cdpcore.inplace.disk_sums import DiskSums
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import Os

NEW_HISTORY_SHARE = 4       # from a quarter of the disk on, little of the history is left
Progress = Callable[[int, int], object]     # bytes of the disk that were read; of so many


@dataclass(frozen=True)
class Changed:
    """What others did to a disk, in bytes. now: how it looks; old_bytes: its size when the volume had it; differ,
    unknown: ranges (start, end) of it that the table knows to be others, and that it does not know."""

    now: disks.Stamp
    old_bytes: int
    differ: list[tuple[int, int]]
    unknown: list[tuple[int, int]]

    @property
    def lost_bytes(self) -> int:
        return sum(end - start for start, end in merged(self.differ + self.unknown))

    @property
    def much(self) -> bool:
        return self.lost_bytes * NEW_HISTORY_SHARE > self.old_bytes


def compare(os: Os, files: VolumeFiles, geometry: Geometry, catalog: Catalog, now: disks.Stamp, old_bytes: int,
            progress: Progress | None = None) -> Changed | None:
    """None: there is no table of checksums that fits the log. The lock is held. Raises what the OS says."""
    uuid = bytes.fromhex(geometry.uuid)
    disk = Disk(os, geometry.disk, Stages(), True)
    # The table has the new size already after an adoption of a disk that grew which was not completed.
    sums = DiskSums(os, disk, max(old_bytes, geometry.size_bytes))
    found: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    try:
        seq = sums.open(files.disk_sums, uuid, read_only=True)
        if seq is None or not _fits(os, files, uuid, catalog, seq):
            return None
        for page in range(-(-old_bytes // PAGE_BYTES)):
            for start, end, known in sums.differences(page):
                ranges = found[known]
                if ranges and ranges[-1][1] == start:
                    start = ranges.pop()[0]
                if start < old_bytes:
                    ranges.append((start, min(end, old_bytes)))
            if progress is not None:
                progress(min((page + 1) * PAGE_BYTES, old_bytes), old_bytes)
    except NotFound:
        return None
    finally:
        sums.close()
        disk.close()
    return Changed(now, old_bytes, found[True], found[False])


def _fits(os: Os, files: VolumeFiles, uuid: bytes, catalog: Catalog, seq: int) -> bool:
    """As DiskTable looks at it, before anything is recovered: the log has all records after `seq`, and no destructive
    restore, whose changes are no records, is among them or unfinished."""
    state = DiskState(os, files.disk_state, uuid, read_only=True)
    applied_seq = state.applied_seq
    state.close()
    rows: list[Segment] = sorted(catalog.rows(Segment), key=lambda r: r.number)
    ended: list[WritebackRow] = catalog.rows(WritebackRow)
    restores: list[RestoreRow] = catalog.rows(RestoreRow)
    for restore in restores:
        done = written_back_seq(restore.seq, ended)
        if restore.destructive and (done == 0 or done > seq):
            return False
    if later_segments(rows, seq, applied_seq) is None:
        return False
    newest = max((r.number for r in rows), default=0)
    for number in layout.segment_numbers(os, files):
        if number > newest and has_data(os, files.segment(number)):
            segment = SegmentFile(os, files.segment(number), uuid, number)
            try:
                events = segment.scan(0, verify_data=False)
            finally:
                segment.close()
            if any(kind in (RESTORE, RESTORED) for kind, *_ in events):     # rare: destructive or not
                return False
    return True


def go_on(os: Os, files: VolumeFiles, changed: Changed, tuning: Tuning, catalog: CatalogFactory) -> None:
    """The history goes on with the disk as it is. Raises NotFound, Busy (also where it was changed since it was
    compared), Corruption, Unavailable, OutOfSpace; it may be repeated then."""
    geometry = geometries.load(os, files)
    size_bytes = changed.now.size_bytes
    least = max(changed.old_bytes, geometry.size_bytes)
    if size_bytes < least:
        raise Corruption(f"{geometry.disk}: {size_bytes} bytes instead of {least}",
                         "put the disk back, or adopt it with --discard-history")
    if size_bytes % disks.SECTOR_BYTES:
        raise InvalidRequest(f"{geometry.disk}: {size_bytes} bytes", "a disk has whole sectors of 512 bytes")
    again = os.exists(files.disk_adopting)
    geometries.save(os, files, replace(geometry, size_bytes=size_bytes, format=GOES_ON))
    if not again:
        os.write_file(files.disk_adopting, b"")
        os.sync_dir(files.directory)
    foreign = [(start, end - start, False) for start, end in merged(changed.differ + changed.unknown)]
    if size_bytes > changed.old_bytes:
        # What was behind the end read as zeros. An attempt before this one may have said so already; what came after
        # that record is not known then.
        foreign.append((changed.old_bytes, size_bytes - changed.old_bytes, not again))
    store = Store(files.directory, tuning, os=os, catalog=catalog, adopting=True)
    try:
        store.adopt_disk(foreign, changed.now)
    finally:
        store.close()
    os.unlink(files.disk_adopting)
    os.sync_dir(files.directory)
