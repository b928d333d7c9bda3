"""The content of replayed writes, in NumPy: the definition of c/replay_content.h a second time, for tests and
messages."""

from __future__ import annotations

import numpy as np

SECTOR_BYTES = 512
_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def sector(number: int, key: int, change: int) -> bytes:
    """The 512 bytes of disk sector `number` that change `change` (from 1) of the replay with `key` writes."""
    m = _mix(_mix(_mix(key) ^ number) ^ change)
    words = [change, number, key] + [(m + j * _STEP) & _MASK for j in range(3, 64)]
    return np.array(words, "<u8").tobytes()


def content(offset: int, length: int, key: int, change: int) -> bytes:
    """The bytes of [offset, offset + length)."""
    first, last = offset // SECTOR_BYTES, -(-(offset + length) // SECTOR_BYTES)
    data = b"".join(sector(n, key, change) for n in range(first, last))
    return data[offset - first * SECTOR_BYTES :][:length]
