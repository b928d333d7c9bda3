"""The numbers that the engine runs with, taken from the settings; the simulator and tests choose smaller ones."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cdp.store.memory import default_bytes

SLOT_BYTES = 4 << 20
"""A slot, and so the largest write to the log: at 4 MiB direct writes reach the device's speed."""


@dataclass(frozen=True)
class Tuning:
    """slot_bytes x n_slots: what may wait in memory to be written to the log. memory_bytes: the bound of the memory
    that all logs of the process share (0: the log has slot_bytes x n_slots for itself, and no more). max_records: a
    segment is closed after so many. merge_fanin: so many runs are merged into one. pending_bytes, pending_changes: what
    waits for a disk written in place. threads: False runs writing and maintenance inside the calls (deterministic).
    standby: the folder may be a copy that follows a volume: who keeps it opens it."""

    slot_bytes: int = SLOT_BYTES
    n_slots: int = 16
    memory_bytes: int = 0
    segment_bytes: int = 256 << 20
    max_records: int = 262_144
    commit_interval_ms: int = 1000
    merge_fanin: int = 8
    max_open_files: int = 256
    max_restores: int = 4096
    direct_io: bool = True
    threads: bool = True
    pending_bytes: int = 64 << 20
    pending_changes: int = 65_536
    skip_unchanged: bool = False
    restore_rate_bytes: int = 0
    maintenance_rate_bytes: int = 0
    low_space_bytes: int = 0
    standby: bool = False

    def fitted(self, segment_bytes: int) -> Tuning:
        """For a volume that was made with segments of this size: a segment takes eight slots or more."""
        slot = min(self.slot_bytes, segment_bytes // 8 // 4096 * 4096)
        return replace(self, segment_bytes=segment_bytes, slot_bytes=slot,
                       n_slots=max(4, min(4096, self.slot_bytes * self.n_slots // slot)))

    @classmethod
    def from_settings(cls, settings: Any) -> Tuning:
        """From cdp.settings.Settings (or anything with its engine keys)."""
        slot = min(SLOT_BYTES, settings.segment_bytes // 8 // 4096 * 4096, settings.pool_bytes // 4 // 4096 * 4096)
        return cls(slot_bytes=slot, n_slots=max(4, settings.pool_bytes // slot),
                   memory_bytes=settings.memory_bytes or default_bytes(), segment_bytes=settings.segment_bytes,
                   commit_interval_ms=settings.commit_interval_ms, merge_fanin=settings.merge_fanin,
                   max_open_files=settings.max_open_files, max_restores=settings.max_restores,
                   direct_io=settings.direct_io, pending_bytes=settings.pending_bytes,
                   skip_unchanged=settings.skip_unchanged_writes, restore_rate_bytes=settings.restore_rate_bytes,
                   maintenance_rate_bytes=settings.maintenance_rate_bytes,
                   low_space_bytes=settings.low_space_bytes)
