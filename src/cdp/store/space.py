"""What a volume's files take on the device, by what they are for; and how fast the history grows.

Sizes are of allocated blocks, as du counts: segments are allocated ahead, and base.img may have holes.
Any thread.
"""
from __future__ import annotations

import os
from dataclasses import dataclass

from cdp.moments.ages import Ages
from cdp.moments.policy import DAY_NS
from cdp.moments.retention import since
from cdp.store.history import StoreHistory
from cdp.store.store import Store

BLOCK = 512
LEAST_SPAN_NS = 10 * 10**9      # a rate over less says nothing


@dataclass(frozen=True)
class Usage:
    """Bytes on the device. log: segments, of which log_ahead are allocated and not written yet; index: runs; images:
    all that writable images take; reserve: what is kept for a full device; other: descriptions and states."""

    log: int
    log_ahead: int
    index: int
    base: int
    images: int
    catalog: int
    reserve: int
    other: int
    device_free: int
    device_size: int

    @property
    def total(self) -> int:
        return self.log + self.index + self.base + self.images + self.catalog + self.reserve + self.other


def usage(store: Store) -> Usage:
    """Of a volume on a real file system."""
    files = store.files
    log, index, catalog = (_tree(path) for path in (files.log, files.runs, files.catalog))
    reserve = sum(map(allocated_bytes, (files.reserve, *files.spares())))
    base, images, total = allocated_bytes(files.base), _tree(files.images), _tree(store.directory)
    rows = store.timeline.rows()
    written = sum(map(store.log_bytes, rows)) + int(store.core.stats()["open_log_bytes"])
    device = os.statvfs(store.directory)
    return Usage(log, max(0, log - written), index, base, images, catalog, reserve,
                 total - log - index - base - images - catalog - reserve, device.f_bavail * device.f_frsize,
                 device.f_blocks * device.f_frsize)


def growth(history: StoreHistory, ages: Ages) -> float | None:
    """Bytes of history a day, of the last day, or of what there is; None: there is too little to say."""
    seq = since(history, ages, DAY_NS)
    span_ns = DAY_NS if seq != history.oldest.seq else min(DAY_NS, ages.age_ns(history.oldest))
    if span_ns < LEAST_SPAN_NS:
        return None
    grown, before = history.total_bytes, history.oldest.seq
    for last_seq, size in history.segments:
        if last_seq <= seq:
            grown -= size
        elif before < seq:
            grown -= size * (seq - before) // (last_seq - before)
        before = last_seq
    return max(0, grown) * DAY_NS / span_ns


def _tree(path: str) -> int:
    """All files below a folder; a writable image's parent is not below it. Files may come and go meanwhile."""
    total = allocated_bytes(path)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                total += _tree(entry.path) if entry.is_dir(follow_symlinks=False) else allocated_bytes(entry.path)
    except OSError:
        pass
    return total


def allocated_bytes(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * BLOCK
    except OSError:
        return 0
