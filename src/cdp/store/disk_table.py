"""The table of checksums of a protected disk, VOLUME/disk.sums: found valid or made anew, filled beside the requests.

Which blocks of it are right after a crash follows from the log (docs/format.md): what records after the table's own
changed is not known, until it is read from the disk. A table that is missing, or not valid, is made of what the disk
holds then, STEP_BYTES at a time, and goes on where it was when the volume is opened again.

Threading: open() before the volume takes requests; step() from one thread at a time, beside them.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress

from cdp.moments.records import FOREIGN, WRITEBACK, changes_content
from cdp.store.base_image import base_salt, remove
from cdp.store.catalog import Segment
from cdp.store.timeline import Timeline
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import CdpError, NotFound
from cdpcore.inplace.before_images import BeforeImages
from cdpcore.system.os import Os

log = logging.getLogger("cdp.store")
STEP_BYTES = 64 << 20       # of the disk, a second
WRITE_STEPS = 16            # a table that is being made is written once a GiB
MOST_SEGMENTS = 16          # after the table's record: more of them than one or two were written by an older release
SAME = 16                   # flag of a record that changed nothing
SECTOR_BYTES, BLOCK_BYTES, PAGE_BYTES = 512, 4096, 1023 * 4096


def later_segments(rows: Iterable[Segment], seq: int, applied_seq: int) -> list[Segment] | None:
    """The sealed segments with records after the table's record `seq`, ascending; None: they do not say all that was
    changed since, or the disk does not hold record `seq`."""
    later = [row for row in rows if row.last_seq > seq]
    if seq > applied_seq or len(later) > MOST_SEGMENTS or later and later[0].first_seq > seq + 1:
        return None
    return later


class DiskTable:
    """Args: os, files, uuid: the volume; content: its content, whose table this is; read_only: nothing is written."""

    def __init__(self, os: Os, files: VolumeFiles, uuid: bytes, content: BeforeImages, read_only: bool):
        self._os, self._files, self._uuid, self._content = os, files, uuid, content
        self._read_only = read_only
        self._steps = 0
        self._fills = self._reported = False
        self._changed: list[tuple[int, int]] = []   # adopting: offset, length of what records after the table's changed

    def open(self, timeline: Timeline, discarded: Iterable[int], adopting: bool = False) -> bool:
        """After recovery, which left nothing in the log that is not sealed. discarded: of the destructive restores, the
        records from which on nothing of them is still to be written back, 0: not yet. A table that cannot be used is
        made anew, unless read_only. False: there was none. adopting: it is filled only after adopt()."""
        sums, path = self._content.sums, self._files.disk_sums
        try:
            seq = sums.open(path, self._uuid, read_only=self._read_only)
        except NotFound:
            seq = None
        except (CdpError, MemoryError) as e:        # the volume is as good as without
            log.warning("%s: cannot be used: %s", path, str(e))     # the exception would keep what failed
            return False
        if seq is not None and not self._fits(timeline, seq, discarded, adopting):
            sums.close()
            seq = None
        if seq is None and not self._read_only and not adopting:
            self._make(int(self._content.stats()["synced_seq"]))
        self._fills = not self._read_only and not adopting
        return seq is not None

    def _make(self, seq: int) -> None:
        try:
            remove(self._os, self._files.disk_sums)
            self._content.sums.create(self._files.disk_sums, self._uuid, base_salt(self._uuid), seq)
            self._os.sync_dir(self._files.directory)
        except (CdpError, MemoryError) as e:        # no space: as above
            log.warning("%s: the disk has no table of checksums: %s", self._files.directory, str(e))
            with suppress(CdpError):
                remove(self._os, self._files.disk_sums)

    def _fits(self, timeline: Timeline, seq: int, discarded: Iterable[int], adopting: bool) -> bool:
        """Whether the log says what was changed after record `seq`; that is not known any more, then."""
        applied_seq = int(self._content.stats()["synced_seq"])
        later = later_segments(timeline.rows(), seq, applied_seq)
        # What a destructive restore writes back is no record.
        if later is None or not later and applied_seq > seq or any(done == 0 or done > seq for done in discarded):
            return False
        for row in later:
            for seqs, descs in timeline.descriptors(row.number):
                kind = descs["kind"]
                mine = (seqs > seq) & (descs["flags"] & SAME == 0) & (
                    changes_content(kind) | (kind == WRITEBACK) | (kind == FOREIGN))
                for start, sectors in zip(descs["start"][mine].tolist(), descs["sectors"][mine].tolist(), strict=True):
                    changed = start * SECTOR_BYTES, sectors * SECTOR_BYTES
                    self._content.sums.forget(*changed)
                    if adopting:
                        self._changed.append(changed)
        return True

    def adopt(self, foreign: list[tuple[int, int, bool]]) -> None:
        """See Kind.adopt_disk. The table knows what others changed only after the records that say so are durable: it
        is read from the disk then."""
        for offset, length, _ in foreign:
            self._content.sums.forget(offset, length)
        end = min((offset for offset, _, behind in foreign if behind), default=self._content.size_bytes)
        changed = [(offset, min(offset + length, end)) for offset, length, behind in foreign if not behind]
        changed += [(offset // BLOCK_BYTES * BLOCK_BYTES, min(-(-(offset + length) // BLOCK_BYTES) * BLOCK_BYTES, end))
                    for offset, length in self._changed]
        ranges = [(start, stop - start, False) for start, stop in merged(changed)]
        self._content.append_foreign(ranges + [piece for piece in foreign if piece[2]])
        self._fills = True

    def step(self) -> bool:
        """Go on for a while with what is not known yet. True: there is more to do."""
        sums = self._content.sums
        if not self._fills or not sums.wants_filling():
            return False
        more = sums.fill(STEP_BYTES)
        self._steps += 1
        if not more or self._steps % WRITE_STEPS == 0:
            self.write()
        return more

    def finish(self) -> None:
        """The volume is being closed: what is missing of the table is made where that takes no time, then it is
        written."""
        sums = self._content.sums
        if self._fills and sums.wants_filling() and sums.stats()["unknown_blocks"] <= STEP_BYTES // BLOCK_BYTES:
            sums.fill(STEP_BYTES)
        self.write()

    def write(self) -> None:
        """The file is of the disk as it is now, durably."""
        if not self._read_only:
            self._content.settler.write_sums()
            errno = self._content.sums.stats()["errno"]
            if errno and not self._reported:
                self._reported = True
                log.warning("%s: the table of checksums could not be kept (errno %d); what was written since is not "
                            "known to it", self._files.disk_sums, errno)


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end) in order; those that touch or overlap are one."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        elif start < end:
            out.append((start, end))
    return out
