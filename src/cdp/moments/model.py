"""The words of the public API as frozen records: what a moment, a window, a restore is. Plain data, JSON-able."""
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Moment:
    """A place in a volume's history: the state after record `seq`. seq 0 is the base. ts_ns: UTC ns since 1970."""

    seq: int
    ts_ns: int


@dataclass(frozen=True)
class Window:
    """The moments that can be opened: oldest to newest, less the gaps (whose two ends can be opened)."""

    oldest: Moment
    newest: Moment
    gaps: list[tuple[Moment, Moment]] = field(default_factory=list)


@dataclass(frozen=True)
class Explanation:
    """How a point was resolved. `kind`: now, time, age, seq or bookmark. `durability` of what it shows, as of the call:
    flushed (the client had flushed all of it), stored (it is on disk, though the client had not), or memory."""

    point: str
    kind: str
    asked_ts_ns: int | None
    resolved: Moment
    next: Moment | None
    flush_durable: bool
    last_flush: Moment | None
    note: str
    durability: str = ""


@dataclass(frozen=True)
class Bookmark:
    name: str
    at: Moment
    made: Moment


@dataclass(frozen=True)
class ImageInfo:
    """A writable image. size_bytes of the disk it shows, log_bytes that its own writes take, children: images made from
    it."""

    name: str
    path: str
    at: Moment
    created_ns: int
    size_bytes: int
    log_bytes: int
    children: int


@dataclass(frozen=True)
class Restore:
    """A restore of [offset, offset + length) bytes to `target`. seq 0: a dry run. undoable: cdp undo would take it
    back. bytes_hidden (of a dry run): how many bytes of writes, zeroes and trims since the target it would hide."""

    seq: int
    ts_ns: int
    target: Moment
    offset: int
    length: int
    destructive: bool
    undo_of: int | None
    undoable: bool
    bytes_hidden: int | None = None


@dataclass(frozen=True)
class Extent:
    """`kind`: data, zero (reads as zeros, allocated) or hole (reads as zeros, not allocated). Bytes."""

    offset: int
    length: int
    kind: str
