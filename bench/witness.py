"""A client that knows what a disk must hold: it writes numbered blocks one at a time, and notes how long each took.

As every write is answered before the next begins, the disk's content at any moment is that after the first n of them,
for one n, and n grows with the moment. That is what Witness.expect() checks of an image.
"""

import random
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from cdp.nbd.client import Client, unix_address
from cdpcore.base.errors import CdpError

BLOCK_BYTES = 4096
FLUSH_EVERY, TRIM_EVERY = 17, 13


class WitnessFailed(Exception):
    """What the server did is wrong."""


class Witness(threading.Thread):
    """Works from start() to stop() on [offset, offset + blocks * 4 KiB); `failure` says what went wrong."""

    def __init__(self, path: Path, export: str, offset: int, blocks: int, seed: int):
        super().__init__(name="witness", daemon=True)
        # The server lets one wait while nobody serves the volume.
        self._client = Client(unix_address(path, export), timeout_s=60)
        self._offset, self._blocks = offset, blocks
        self._random = random.Random(seed)
        self._done = threading.Event()
        self.quiet = threading.Lock()
        """Held to keep it between two requests."""
        self.ops: list[tuple[int, bool]] = []  # block, and whether it was written (or trimmed)
        self.spans: list[tuple[float, float]] = []  # of requests, by time.monotonic()
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self._done.is_set():
                with self.quiet:
                    self._step()
                time.sleep(0.0005)
        except (WitnessFailed, CdpError) as error:
            self.failure = error
        finally:
            self._client.close()

    def _step(self) -> None:
        number = len(self.ops) + 1
        block = self._random.randrange(self._blocks)
        at = self._offset + block * BLOCK_BYTES
        began = time.monotonic()
        if number % TRIM_EVERY:
            self._client.pwrite(struct.pack("<Q", number) * (BLOCK_BYTES // 8), at)
        else:
            self._client.trim(BLOCK_BYTES, at)
        self.ops.append((block, bool(number % TRIM_EVERY)))
        if number % FLUSH_EVERY == 0:
            self._client.flush()
        self.spans.append((began, time.monotonic()))

    def stop(self) -> None:
        self._done.set()
        self.join(60)
        if self.failure or self.is_alive():
            raise WitnessFailed(str(self.failure or "a request is not answered"))

    def longest(self, since: float, until: float) -> float:
        """Of the requests under way between two times, the longest; in seconds."""
        return max((end - begin for begin, end in list(self.spans) if end >= since and begin <= until), default=0.0)

    def model(self, n: int) -> "np.ndarray[Any, Any]":
        """The number in each block after the first n requests; 0: zeros."""
        held = np.zeros(self._blocks, np.uint64)
        for number, (block, written) in enumerate(self.ops[:n], 1):
            held[block] = number if written else 0
        return held

    def expect(self, image: Any, n: int | None = None) -> int:
        """`image` (pread) shows the state after the first n requests (None: after some number of them, which is
        returned)."""
        content = image.pread(self._blocks * BLOCK_BYTES, self._offset)
        words = np.frombuffer(content, np.uint64).reshape(self._blocks, -1)
        if (words != words[:, :1]).any():
            raise WitnessFailed("a block is torn")
        found = words[:, 0]
        # A trim leaves no number: up to TRIM_EVERY states have the same newest one.
        first = int(found.max())
        last = min(len(self.ops), first + TRIM_EVERY * self._blocks)
        for candidate in [n] if n is not None else range(max(first, 0), last + 1):
            held = self.model(candidate)
            if (held == found).all():
                return candidate
            if n is None and held.max() > first:
                break
        wrong = np.flatnonzero(self.model(n if n is not None else first) != found)
        raise WitnessFailed(f"{len(wrong)} wrong blocks, the first is {wrong[0] if len(wrong) else '?'}; "
                            f"newest write shown: {first}")
