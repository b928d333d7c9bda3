"""Bugs that are planted in the shell around the engine: each is noticed by histories of test_powercut.py or flips of
test_faults.py, which find nothing without it. Those of the engine itself are its rules that can be broken (break_rule),
and are planted there."""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from support.seeds import notice
from test_faults import flip
from test_powercut import GivenUp, History

from cdp.store import recovery
from cdp.volume.volume import Volume
from cdpcore.base.checksum import crc32c
from cdpcore.log.segment_file import SegmentFile

pytestmark = [pytest.mark.sanitize, pytest.mark.planted]

BLOCK, HEADER = 4096, struct.Struct("<QQQQQIIIIII")
MAGIC, IN_HEAD, IN_TAIL = 0x314D5246504443, 100, 102


def forget_the_crc_of_headers(patch: pytest.MonkeyPatch) -> None:
    """A frame counts whatever its header's checksum says: the right one is put there before it is looked at."""
    def opened(os: Any, path: str, uuid: bytes, number: int, writable: bool = False) -> SegmentFile:
        with os.open(path, write=True) as file:
            raw = file.pread(file.size(), 0)
            for at in range(BLOCK, len(raw) - BLOCK + 1, BLOCK):
                put_checksum(file, raw, at)
        return SegmentFile(os, path, uuid, number, writable)

    patch.setattr(recovery, "SegmentFile", opened)


def put_checksum(file: Any, raw: bytes, at: int) -> None:
    magic, *_, n_desc, data_bytes, tail_bytes, _, crc = HEADER.unpack_from(raw, at)
    tail = at + BLOCK + data_bytes
    if magic != MAGIC or not n_desc or tail + tail_bytes > len(raw):
        return
    block = raw[at:at + HEADER.size - 4] + bytes(4) + raw[at + HEADER.size:at + BLOCK]
    right = crc32c(raw[tail:tail + tail_bytes], crc32c(block))
    if right != crc:
        file.pwrite(right.to_bytes(4, "little"), at + HEADER.size - 4)


def reuse_locations(patch: pytest.MonkeyPatch) -> None:
    """The number of a segment that is gone is given to the next one: places of the log mean something else."""
    whole = recovery._end_of_catalog

    def end(os: Any, files: Any, *more: Any) -> Any:
        found, tail = whole(os, files, *more)
        taken = set(recovery.segment_numbers(os, files))
        found.next_number = next(n for n in range(1, len(taken) + 2) if n not in taken)
        return found, tail

    patch.setattr(recovery, "_end_of_catalog", end)


def answer_a_flush_early(patch: pytest.MonkeyPatch) -> None:
    """Before anything is written."""
    patch.setattr(Volume, "flush", lambda volume: None)


PLANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[int], object]]] = {
    "crc of headers": (forget_the_crc_of_headers, lambda seed: flip(seed, "after")),
    "locations again": (reuse_locations, lambda seed: GivenUp(seed).run()),
    "flush early": (answer_a_flush_early, lambda seed: History(seed).run()),
}


@pytest.mark.parametrize("bug", PLANTS)
def test_a_bug_of_recovery_or_of_a_flush_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, play = PLANTS[bug]
    plant(monkeypatch)
    notice(play, 300)
