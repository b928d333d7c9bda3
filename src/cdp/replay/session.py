"""What a replay leaves beside its volume, so that it can be verified later, also after a crash.

    VOLUME.replay.json    which trace, how it was shaped, the key of its content, the record before it; at the end the
                          report
    VOLUME.replay.acks    16 bytes, two little-endian u64: changes acknowledged, changes known durable

The driver keeps the second up to date in shared memory, which outlives a killed process (not a machine that loses
power: then it may be older than the volume, never newer than what was acknowledged before its last write to disk).
The volume itself has two bookmarks, replay-KEY-start and replay-KEY-end.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from cdp.replay.shape import Shape
from cdpcore.base.errors import Corruption, InvalidRequest, NotFound

VERSION = 1
ACKS_BYTES = 16


@dataclass
class Session:
    """One replay into one volume."""

    volume: str
    key: int
    start_seq: int  # the record before the replay's first
    traces: list[str]
    options: dict[str, Any]  # of open_trace()
    device: str | None  # the trace's device that this volume has; None: all
    limit: int | None
    size_bytes: int
    max_bytes: int
    wrap: bool
    data: bool  # content is the trace's own
    all_short: bool = False  # also trims and zeroes are no longer than max_bytes
    report: dict[str, Any] | None = None
    version: int = VERSION

    def shape(self) -> Shape:
        return Shape(self.size_bytes, self.max_bytes, self.wrap, self.all_short)

    @property
    def prefix(self) -> str:
        return f"replay-{self.key:08x}"

    def save(self) -> None:
        """Replaces the file as a whole."""
        path = json_path(self.volume)
        with open(f"{path}.new", "w", encoding="utf-8") as out:
            json.dump(asdict(self), out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        os.replace(f"{path}.new", path)


def json_path(volume: str) -> str:
    return f"{volume.rstrip('/')}.replay.json"


def acks_path(volume: str) -> str:
    return f"{volume.rstrip('/')}.replay.acks"


def load(volume: str) -> Session:
    """Raises NotFound, Corruption."""
    path = json_path(volume)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if found.get("version") != VERSION:
            raise InvalidRequest(f"{path}: version {found.get('version')}", f"this cdp reads version {VERSION}")
        return Session(**found)
    except FileNotFoundError:
        raise NotFound(f"{path}: no replay into this volume is known", "replay a trace into it first") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise Corruption(f"{path}: {error}", "replay again") from None


@dataclass
class Acks:
    """The shared memory. close() after the driver is gone."""

    path: str
    memory: mmap.mmap = field(repr=False)

    @classmethod
    def create(cls, volume: str) -> Acks:
        path = acks_path(volume)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(fd, ACKS_BYTES)
            return cls(path, mmap.mmap(fd, ACKS_BYTES))
        finally:
            os.close(fd)

    def close(self) -> None:
        try:
            self.memory.close()
        except BufferError:
            pass  # a driver still holds it; it goes with the driver


def acknowledged(volume: str) -> tuple[int, int]:
    """(changes acknowledged, changes known durable) of the last replay; (0, 0) where the file is missing."""
    try:
        with open(acks_path(volume), "rb") as file:
            data = file.read(ACKS_BYTES)
    except FileNotFoundError:
        return 0, 0
    data = data.ljust(ACKS_BYTES, b"\0")
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")
