"""How large the volumes of model tests are, and what is done to them how often."""
from __future__ import annotations

from dataclasses import dataclass

from cdp.store.tuning import Tuning

WEIGHTS = {"write": 46, "small": 14, "zero": 10, "flush": 6, "bookmark": 3, "unbookmark": 2, "restore": 3, "destroy": 1,
           "undo": 2, "image": 2, "unimage": 1, "shut": 2, "hold": 2, "look": 8, "history": 2, "reopen": 1}
FREEING = {"write": 60, "small": 8, "zero": 12, "flush": 3, "bookmark": 1, "restore": 3, "destroy": 1, "undo": 1,
           "image": 1, "unimage": 4, "shut": 2, "hold": 1, "look": 1, "free": 14, "reopen": 1}    # from the oldest end
THINNING = {**FREEING, "thin": 16, "free": 8, "flush": 6, "bookmark": 2, "hold": 2, "image": 2}
WRONG_CLOCK = {**WEIGHTS, "clock": 8, "history": 12}    # simulated: it is set, both ways, and slewed


@dataclass(frozen=True)
class Size:
    """How large things are: chosen so that rolls, seals, merges and records of many frames happen all the time."""

    volume: int
    tuning: Tuning
    most: int           # bytes of the longest write, in max_request_bytes: without threads one call may roll once
    before: bool = False    # of before-images, with a disk in place


KIB = 1024


def tuning(slot: int, segment: int, slots: int = 3, records: int = 300, files: int = 2,
           threads: bool = False) -> Tuning:
    return Tuning(slot_bytes=slot, n_slots=slots, segment_bytes=segment, max_records=records, merge_fanin=2,
                  max_open_files=files,
                  threads=threads, commit_interval_ms=1 if threads else 0, pending_bytes=256 * KIB, pending_changes=64)


SIZES = (Size(192 * KIB, tuning(80 * KIB, 640 * KIB), 1),
         Size(96 * KIB, tuning(80 * KIB, 640 * KIB, slots=2, records=120), 1),
         Size(320 * KIB, tuning(128 * KIB, 1024 * KIB, slots=4), 1),
         Size(640 * KIB, tuning(256 * KIB, 2048 * KIB, records=200), 2))
