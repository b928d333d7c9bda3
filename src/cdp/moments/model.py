"""The words of the public API as frozen records: what a moment, a window, a restore is. Plain data, JSON-able."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Moment:
    """A place in a volume's history: the state after record `seq`. seq 0 is the base. ts_ns: UTC ns since 1970."""

    seq: int
    ts_ns: int


@dataclass(frozen=True)
class ClockStep:
    """The clock went back between two records: `seq` is the first one after it, with the time after_ns; before_ns is
    the time of the record before. UTC ns since 1970."""

    seq: int
    before_ns: int
    after_ns: int


@dataclass(frozen=True)
class Thinning:
    """From `first` to `last` only so many moments can be opened, these two among them."""

    first: Moment
    last: Moment
    points: int


@dataclass(frozen=True)
class Window:
    """The moments that can be opened: oldest to newest by seq, less the gaps (whose two ends can be opened), and less
    what was thinned. clock_steps: where the clock went back. clock_behind_ns: how far it is behind the newest record;
    0: it is not."""

    oldest: Moment
    newest: Moment
    gaps: list[tuple[Moment, Moment]] = field(default_factory=list)
    clock_steps: list[ClockStep] = field(default_factory=list)
    clock_behind_ns: int = 0
    thinned: Thinning | None = None


@dataclass(frozen=True)
class Hold:
    """What keeps history: the oldest moment can be no later than `seq`, because of `what`."""

    seq: int
    what: str


@dataclass(frozen=True)
class Freed:
    """The oldest history was given up, or would be: `start` is the oldest moment from then on, freed_bytes of the log
    go; `holds` kept more from going."""

    start: Moment
    freed_bytes: int
    holds: list[Hold]


@dataclass(frozen=True)
class Freeing:
    """History before `start` was given up, and bytes_left of the log are still to be freed. folded_percent: how much of
    the volume's address space was gone through to take over what those bytes changed; 100: all."""

    start: Moment
    bytes_left: int
    folded_percent: float


@dataclass(frozen=True)
class Explanation:
    """How a point was resolved. `kind`: now, time, age, seq or bookmark. `durability` of what it shows, as of the call:
    flushed (the client had flushed all of it), stored (it is on disk, though the client had not), or memory.
    other_readings: where the clock was set back, what a time might mean as well, though that is less likely. not_kept:
    the moment that was asked for, where thinning took it and `resolved` is the kept one before it."""

    point: str
    kind: str
    asked_ts_ns: int | None
    resolved: Moment
    next: Moment | None
    flush_durable: bool
    last_flush: Moment | None
    note: str
    durability: str = ""
    other_readings: list[Moment] = field(default_factory=list)
    not_kept: Moment | None = None


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


@dataclass(frozen=True, eq=False)
class Activity:
    """What was done to a volume, by time and by place. intervals: a NumPy array of ACTIVITY (cdp.moments.records), of
    by_ns each, without holes; places: a NumPy array of bytes written, a row an interval, a column for each place_bytes
    of the volume. resolution_ns: the longest time that what is counted was known of together: where that is longer than
    by_ns, it is divided evenly. missing: so many segments were not summed up yet, and are not in it."""

    by_ns: int
    intervals: Any
    place_bytes: int
    places: Any
    resolution_ns: int
    missing: int


@dataclass(frozen=True)
class Extent:
    """`kind`: data, zero (reads as zeros, allocated), hole (reads as zeros, not allocated) or unknown (cannot be read:
    the disk was changed outside cdp, and adopted with its history). Bytes."""

    offset: int
    length: int
    kind: str


@dataclass(frozen=True)
class GroupMoment:
    """One moment of all volumes of a group. at: of each, in the order of the members; pause_ns: how long their writers
    were held up for it. made_ns: UTC ns since 1970."""

    name: str
    made_ns: int
    pause_ns: int
    at: tuple[Moment, ...]


@dataclass(frozen=True)
class GroupRestore:
    """A restore of all volumes of a group to `point`. seqs: of the RESTORE record of each volume; undone: it was."""

    point: str
    done_ns: int
    at: tuple[Moment, ...]
    seqs: tuple[int, ...]
    undone: bool = False
