"""Reports the blocks of log, base and protected disk that did not match their checksums when they were read: each once.

Threading: look() from one thread at a time.
"""
from __future__ import annotations

import logging
from typing import Any

from cdp.store.timeline import Timeline
from cdp.text.timestamps import utc
from cdpcore.base.errors import CdpError
from cdpcore.log.damage import Damage

log = logging.getLogger("cdp.store")
BLOCK_BYTES = 4096
THE_DISK = (1 << 32) - 1      # in the place of a segment's number


class DamageWatch:
    """Args: directory: the volume's, for messages; damage: what its reads found; timeline; before: it keeps
    before-images."""

    def __init__(self, directory: str, damage: Damage, timeline: Timeline, before: bool):
        self._directory, self._damage, self._timeline, self._before = directory, damage, timeline, before
        self._n_reported = 0

    def look(self) -> None:
        """To be called now and then."""
        for number, offset, expected, found in self._damage.blocks_from(self._n_reported):
            self._n_reported += 1
            file = f"log/{number:010d}.log" if number else "base.img"
            if number == THE_DISK:
                file = "the protected disk"
            log.error("%s: %s, byte %d: a block does not match its checksum (expected %#x, found %#x); reads of it "
                      "fail: %s; run 'cdp check', and put the file back from a copy", self._directory, file, offset,
                      expected, found, self.affected(number, offset))

    def affected(self, number: int, offset: int) -> str:
        """What the block has, and which moments show it."""
        if number == THE_DISK:
            return (f"bytes {offset} to {offset + BLOCK_BYTES - 1} of the volume, now and at all moments since they "
                    "were written last")
        if not number:
            return f"bytes {offset} to {offset + BLOCK_BYTES - 1} of the volume, at all moments until they were written"
        try:
            hits = [(int(seq), int(d["ts_ns"]), int(d["start"]), int(d["sectors"]))
                    for seqs, descs in self._timeline.descriptors(number)
                    for seq, d in zip(*(part[_in_block(descs, offset)] for part in (seqs, descs)), strict=True)]
        except CdpError as e:
            return f"its records cannot be read: {e.message}"
        if not hits:
            return "records of a segment that is not sealed yet, or none"
        ranges = ", ".join(f"{start * 512} to {(start + n) * 512 - 1}" for _, _, start, n in hits[:8])
        more = f" and {len(hits) - 8} more ranges" if len(hits) > 8 else ""
        (first, ts_ns, _, _), last = hits[0], hits[-1][0]
        records = f"record #{first}" if first == last else f"records #{first} to #{last}"
        moments = "moments before" if self._before else "moments from there on, until they were written again"
        return f"{records} ({utc(ts_ns)}), bytes {ranges}{more} of the volume; {moments}"


def _in_block(descs: Any, offset: int) -> Any:
    """Which of these descriptors (a bool array) have data in the block at `offset`."""
    at = descs["data_sector"].astype("i8") * 512
    return (descs["data_bytes"] > 0) & (at < offset + BLOCK_BYTES) & (at + descs["data_bytes"] > offset)
