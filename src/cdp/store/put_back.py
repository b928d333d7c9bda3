"""Recovery of a disk written in place: what unflushed records overwrote goes back to it.

The disk holds every record up to the one that disk.state names, and maybe some later ones; the log has what those
overwrote. So the disk is put back to that record, and the log ends there.
"""
from __future__ import annotations

from cdp.store.description import Geometry
from cdp.store.recovery import Found, has_data
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption
from cdpcore.inplace.disk_state import DiskState
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import File, Os


def put_back(os: Os, files: VolumeFiles, geometry: Geometry, tail: list[int], found: Found, disk: File,
             state: DiskState, keep: bool = False) -> list[int]:
    """What the records after the one that `state` names overwrote goes back to the disk, the newest first; then
    segments that begin after it are removed, the newest first, so that a crash in between leaves a log that says the
    same. Returns the numbers that are left.

    keep: nothing is put back or removed: the disk is taken to hold all records, though it may not, and `state` says so.
    """
    seq, opened, applied_seq = found.last_seq, [], state.applied_seq
    if seq > applied_seq and not keep:      # a segment is sealed only when the disk has it
        raise Corruption(f"{files.disk_state}: says that the disk holds up to #{applied_seq}, but the log is sealed up "
                         f"to #{seq}", "put back the disk.state that belongs to this log, or 'cdp adopt' the disk "
                         "anew; nothing was changed")
    uuid = bytes.fromhex(geometry.uuid)
    claims: list[int] = []
    try:
        for number in tail:
            try:
                segment = SegmentFile(os, files.segment(number), uuid, number, writable=True)
            except Corruption as e:
                if has_data(os, files.segment(number)):
                    raise Corruption(f"{e.message}, but it has records",
                                     "put the file back from a copy; nothing was changed") from None
                break
            opened.append(segment)
            segment.scan(seq + 1, verify_data=True)
            claims.append(segment.later_durable())
            seq = segment.last_seq if segment.n_records else seq
        if max(claims, default=0) > seq or seq < applied_seq:
            raise Corruption(f"{files.directory}: records that were durable (up to #{max([applied_seq, *claims])}) are "
                             f"damaged; the log is sound up to #{seq}",
                             "run 'cdp check' on the volume; nothing was changed")
        if seq > applied_seq and state.damaged and not keep:
            raise Corruption(f"{files.disk_state}: the copy at byte {state.damaged[0]} is damaged, and may have been "
                             f"the newer one: by the other the disk must lose what follows #{applied_seq}, up to "
                             f"#{seq}",
                             "put disk.state back from a copy, or 'cdp adopt' the disk anew; nothing was changed")
        if keep:
            for segment in opened:
                segment.sync()
            state.name(seq)
            return tail
        if seq > applied_seq:
            # what a killed process left may not be on the device: while the disk is written, the log says why
            for segment in opened:
                segment.sync()
            for segment in reversed(opened):
                segment.undo(disk, applied_seq, state.undid)
            disk.datasync()
            state.note()
        gone = [s.number for s in opened if s.n_records and s.first_seq > applied_seq]
    finally:
        for segment in opened:
            segment.close()
    for number in reversed(gone):
        os.unlink(files.segment(number))
        os.sync_dir(files.log)
        found.next_number = max(found.next_number, number + 1)
    return [n for n in tail if n not in gone]
