"""Tables of checksums for what has none: segments and bases that were made before there were tables.

Until then a segment's reads are checked by the checksums in its frames, which takes reading them; a base is not
checked. A table of a segment is made from its frames, which are verified; one of a base from what the base has now.
Each is made beside its file under another name, synced and renamed.

Threading: step() from one thread at a time.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from cdp.store.base_image import base_salt, remove
from cdp.store.timeline import Timeline
from cdp.store.volume_files import CREATING, VolumeFiles
from cdpcore.base.errors import CdpError, NotFound
from cdpcore.log.segment_file import SegmentFile
from cdpcore.log.sums_file import SumsWriter
from cdpcore.system.os import File, Os

BASE_BYTES = 64 << 20       # of a base, a step
PIECE_BYTES = 4 << 20
LOOKED_AT = 64              # segments, a step
BLOCK_BYTES, PAGE_BLOCKS = 4096, 1023


class Checksums:
    """Args: os, files, uuid, timeline: the volume. unchecked_base: gives what makes reads of the base checked against a
    table; None: there is no base, or they are, or it is being written."""

    def __init__(self, os: Os, files: VolumeFiles, uuid: bytes, timeline: Timeline,
                 unchecked_base: Callable[[], Callable[[str], bool] | None]):
        self._os, self._files, self._uuid, self._timeline = os, files, uuid, timeline
        self._unchecked_base = unchecked_base
        self._seen = 0                  # segments up to this number have tables
        self._base: _BaseTable | None = None
        self._cleaned = False

    def step(self) -> bool:
        """Go on for a while: at most one segment, or BASE_BYTES of the base. True: there is more to do."""
        if not self._cleaned:
            self._cleaned = True
            self._clean()
        rows = self._timeline.rows()
        if rows and rows[-1].number > self._seen:
            for row in [r for r in rows if r.number > self._seen][:LOOKED_AT]:
                made = self._make(row.number)
                self._seen = row.number
                if made:
                    return True
        check_base = self._unchecked_base()
        if check_base is None:
            self.close()
            return bool(rows) and rows[-1].number > self._seen
        if self._base is None:
            self._base = _BaseTable(self._os, self._files, self._uuid)
        if self._base.step():
            self.close()
            if not self._os.exists(self._files.base_sums_creating):     # a fold wrote the base meanwhile: begin again
                return True
            self._os.rename(self._files.base_sums_creating, self._files.base_sums)
            self._os.sync_dir(self._files.directory)
            check_base(self._files.base_sums)
        return True

    def close(self) -> None:
        """Leave what is begun. Idempotent."""
        if self._base is not None:
            self._base.close()
            self._base = None

    def _clean(self) -> None:
        """Tables of segments that are gone."""
        names = set(self._os.list_dir(self._files.log))
        for name in names:
            stem = name.removesuffix(CREATING)
            if stem != name or name.endswith(".sums") and f"{name.removesuffix('.sums')}.log" not in names:
                self._os.unlink(f"{self._files.log}/{name}")

    def _make(self, number: int) -> bool:
        """Make the segment's table where it has none."""
        path = self._files.segment_sums(number)
        try:
            segment = SegmentFile(self._os, self._files.segment(number), self._uuid, number)
        except NotFound:        # freed meanwhile
            return False
        try:
            if segment.has_table or not segment.sealed or self._os.exists(path):
                return False
            building = f"{path}{CREATING}"
            remove(self._os, building)
            with self._os.open(building, write=True, create=True) as table:
                sums = SumsWriter(table, self._uuid, number, segment.salt)
                for page in range(-(-segment.end_bytes // BLOCK_BYTES // PAGE_BLOCKS)):
                    sums.put_page(page, segment.sums(page))
                sums.finish(segment.end_bytes)
            self._os.rename(building, path)
            self._os.sync_dir(self._files.log)
            return True
        finally:
            segment.close()


class _BaseTable:
    """The table of a base, being made."""

    def __init__(self, os: Os, files: VolumeFiles, uuid: bytes):
        remove(os, files.base_sums_creating)
        self._base: File = os.open(files.base)
        self._table: File = os.open(files.base_sums_creating, write=True, create=True)
        self._sums = SumsWriter(self._table, uuid, 0, base_salt(uuid), self._base)
        self._at = 0

    def step(self) -> bool:
        """True: it is complete."""
        until = self._at + BASE_BYTES
        while extent := self._base.next_data(self._at):
            if self._at >= until:
                return False
            start = extent[0] // BLOCK_BYTES * BLOCK_BYTES
            until = max(until, start + BASE_BYTES if start > self._at else until)
            piece = self._base.pread(min(PIECE_BYTES, -(-extent[1] // BLOCK_BYTES) * BLOCK_BYTES - start), start)
            self._sums.put(start, piece)
            self._at = start + len(piece)
        self._sums.finish(self._base.size())
        return True

    def close(self) -> None:
        with suppress(CdpError):
            self._base.close()
            self._table.close()
