"""check, of a disk that is protected in place: disk.state, disk.json, the disk itself, whether they fit the log, and
the table of its checksums.

Reads and never writes; about 2 MiB of the disk, or all of it where the volume was closed cleanly and there is a table.
"""
from __future__ import annotations

from collections.abc import Callable

from cdp.moments.records import RESTORED
from cdp.store import protected_disk as disks
from cdp.store.catalog import Catalog, RestoreRow, WritebackRow
from cdp.store.description import Geometry
from cdp.store.records import Event
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import CdpError
from cdpcore.base.stages import Stages
from cdpcore.inplace.disk import Disk
from cdpcore.inplace.disk_state import DiskState
from cdpcore.inplace.disk_sums import DiskSums
from cdpcore.system.os import Os

Add = Callable[[str, str, str], None]
"""(where, what, hint): a problem was found."""
PAGE_FILE_BYTES = 4096
ANEW = "nothing is lost by it: it is made anew from the disk when the volume is opened"
MOST_RANGES = 16        # of the disk that are reported one by one
COPY = "put it back from a copy, or 'cdp adopt' the disk anew"


def check_disk(os: Os, files: VolumeFiles, geometry: Geometry, ends: tuple[int, int], catalog: Catalog,
               events: list[Event], add: Add) -> None:
    """ends: the last record of a sealed segment, and of the log; events: bookmarks and restores that the log has."""
    sealed_seq, end_seq = ends
    try:
        state = DiskState(os, files.disk_state, bytes.fromhex(geometry.uuid), read_only=True)
    except CdpError as e:
        add(files.disk_state, e.message, e.hint)
        return
    try:
        _check_state(files, state, sealed_seq, end_seq, add)
        clean = _check_description(os, files, state.applied_seq, end_seq, add)
        if clean is not None:
            sure = not clean and state.applied_seq == end_seq and not _overwriting(catalog, events)
            same = _check_content(os, files, geometry, state if sure else None, add)
            _check_table(os, files, geometry, state.applied_seq, clean, same, add)
    finally:
        state.close()


def _overwriting(catalog: Catalog, events: list[Event]) -> bool:
    """Whether a destructive restore is being written back, which changes the disk without records."""
    rows: list[RestoreRow] = catalog.rows(RestoreRow)
    begun = [r.seq for r in rows if r.destructive]
    begun += [row.seq for row in (e.restore() for e in events) if row is not None and row.destructive]
    done = [w.upto_seq for w in catalog.rows(WritebackRow)] + [e.start for e in events if e.kind == RESTORED]
    return max(begun, default=0) > max(done, default=0)


def _check_state(files: VolumeFiles, state: DiskState, sealed_seq: int, end_seq: int, add: Add) -> None:
    path = files.disk_state
    for at in state.damaged:
        add(path,
            f"the copy at byte {at} is damaged; the other one says #{state.applied_seq}, the log ends at #{end_seq}",
            COPY if end_seq > state.applied_seq else "nothing is lost by it: the next flush writes it anew")
    if sealed_seq > state.applied_seq:
        add(path,
            f"says that the disk holds records up to #{state.applied_seq}, but the log is sealed up to #{sealed_seq}",
            COPY)
    elif end_seq < state.applied_seq:
        add(path, f"says that the disk holds records up to #{state.applied_seq}, but the log ends at #{end_seq}",
            f"put the newest files of {files.log} back from a copy, or 'cdp adopt' the disk anew")


def _check_description(os: Os, files: VolumeFiles, applied_seq: int, end_seq: int, add: Add) -> bool | None:
    """Whether the volume was closed cleanly; None: not known."""
    path = files.disk_description
    if not os.exists(path):
        if end_seq:
            add(path, "missing: it is unknown whether the disk was changed outside",
                "where it was not, open the volume and close it, which makes it anew")
        return None if end_seq else True        # a volume that was never opened has none
    try:
        clean = disks.left(os, files).clean
    except CdpError as e:
        add(path, e.message, e.hint)
        return None
    if clean and applied_seq != end_seq:
        add(path, f"says that the volume was closed cleanly, but the disk holds up to #{applied_seq} and the log ends "
            f"at #{end_seq}",
            f"put it and {files.disk_state} back as they were together, or 'cdp adopt' the disk anew")
    return clean


def _check_content(os: Os, files: VolumeFiles, geometry: Geometry, state: DiskState | None, add: Add) -> bool:
    """Whether nothing says that others changed it."""
    try:
        with disks.open_disk(os, geometry.disk, write=False) as disk:
            disks.check_unchanged(os, files, geometry.disk, disk, geometry.size_bytes)
            if state is not None:
                disks.check_left_alone(files, geometry.disk, disk, state)
    except CdpError as e:
        add(geometry.disk, e.message, e.hint)
        return False
    return True


def _check_table(os: Os, files: VolumeFiles, geometry: Geometry, applied_seq: int, clean: bool, same: bool,
                 add: Add) -> None:
    """clean: all that it knows is what the disk holds. After a crash that needs the log (cdp.store.disk_table), and a
    page may have been cut off. same: the disk is to be compared with it."""
    path = files.disk_sums
    if not os.exists(path):
        return      # it is made when the volume is opened
    try:
        disk = Disk(os, geometry.disk, Stages(), True)
        sums = DiskSums(os, disk, geometry.size_bytes)
        try:
            seq = sums.open(path, bytes.fromhex(geometry.uuid), read_only=True)
            if seq is None:
                add(path, "its header is damaged, or another volume's", ANEW)
            elif seq > applied_seq:
                add(path, f"is of the disk at #{seq}, but disk.state says that it holds records up to #{applied_seq}",
                    ANEW)
            elif clean:
                for page in sums.damaged_pages():
                    add(path, f"a page does not match its checksum at byte {(page + 1) * PAGE_FILE_BYTES}",
                        "nothing is lost by it: its blocks are read from the disk again when the volume is opened")
                if same and seq == applied_seq:
                    _compare(geometry, sums, add)
        finally:
            sums.close()
            disk.close()
    except CdpError as e:
        add(path, e.message, e.hint)


def _compare(geometry: Geometry, sums: DiskSums, add: Add) -> None:
    n = 0
    for page in range(sums.stats()["n_pages"]):
        for start, end, known in sums.differences(page):
            n += known
            if known and n <= MOST_RANGES:
                add(geometry.disk, f"bytes {start} to {end - 1} do not match their checksums",
                    "they rotted, or others wrote to them unseen: put them back from a copy; or say which earlier "
                    "moments can't show them any more: touch the disk, then 'cdp adopt --keep-history'")
    if n > MOST_RANGES:
        add(geometry.disk, f"{n - MOST_RANGES} more ranges do not match their checksums", "as above")
