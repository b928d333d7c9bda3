"""What is listed in pages: segments, extents, records, versions, differences, activity, events."""
from typing import Any

from cdp.views.typed import TypedDict

MAX_PAGE_EVENTS = 1024
MAX_PAGE_EXTENTS = 65_536
MAX_PAGE_RECORDS = 100_000
MAX_PAGE_ROWS = 250_000     # of binary records, 34 bytes each
MAX_PLACED_INTERVALS = 2_000    # of activity by place, some 64 numbers each


class SegmentView(TypedDict):
    """A sealed segment: log/NUMBER.log in the volume's folder, which never changes (but that what a destructive restore
    discarded is punched out)."""

    number: int
    first_seq: int
    last_seq: int
    first_ts_ns: int
    last_ts_ns: int
    file_bytes: int


class SegmentsPage(TypedDict):
    """Sealed segments in order. `next`: the number to give as `after` for more, None at the end."""

    segments: list[SegmentView]
    next: int | None


class ExtentView(TypedDict):
    """kind: data, zero (reads as zeros, allocated), hole, or unknown (cannot be read: the disk was changed outside)."""

    offset: int
    length: int
    kind: str


class MapPage(TypedDict):
    """Adjacent extents in order. `next_offset`: where the next page begins, None at the end."""

    extents: list[ExtentView]
    next_offset: int | None


class RecordView(TypedDict):
    """One record of the history. kind: one of KIND_NAMES of cdp.moments.records. meta: its sender called it
    metadata."""

    seq: int
    ts_ns: int
    time: str
    kind: str
    fua: bool
    meta: bool
    offset: int
    length: int


class RecordsPage(TypedDict):
    """Records in order. `next`: the point to give as `since` for more, None at the end."""

    records: list[RecordView]
    next: str | None


class VersionView(TypedDict):
    """A record that changed a range; kind, fua and meta as in RecordView. `offset`, `length`: from the first byte of
    the range that it changed to the last; `bytes`: how many of those. present: what the volume shows now came through
    it, at least in part; false: a restore took it back. target: of a restore, the seq it goes back to."""

    seq: int
    ts_ns: int
    time: str
    kind: str
    fua: bool
    meta: bool
    offset: int
    length: int
    bytes: int
    present: bool
    target: int | None


class VersionsPage(TypedDict):
    """The versions of a range, in order. `next`: the point to give as `since` for more, None at the end."""

    versions: list[VersionView]
    next: str | None


class DiffPage(TypedDict):
    """Ranges that differ between two moments, in order, by the kind that they have at the second. `next_offset`: where
    the next page begins, None at the end."""

    ranges: list[ExtentView]
    next_offset: int | None


class ActivityView(TypedDict):
    """What was done, in intervals of by_ns: a list an item, of as many numbers as there are intervals, the first one's
    from begin_ns. overwritten_bytes: of what was written, what held data before. places: bytes written, a list an
    interval, by place_bytes of the volume; None where it was not asked for. resolution_ns: where that is longer than
    by_ns, numbers are known of so much time together, and divided evenly. missing: so many segments were not summed up
    yet, and are not in it."""

    begin_ns: int
    begin: str
    by_ns: int
    resolution_ns: int
    missing: int
    written_bytes: list[int]
    overwritten_bytes: list[int]
    zeroed_bytes: list[int]
    trimmed_bytes: list[int]
    writes: list[int]
    zeroes: list[int]
    trims: list[int]
    flushes: list[int]
    place_bytes: int
    places: list[list[int]] | None


class EventView(TypedDict):
    """Something that happened to the volume: a number in its stream, which lasts as long as the volume is open. kind,
    and what `details` has: see cdp.Event. `lost`: so many events before it are gone (count; null: not known)."""

    number: int
    stream: str
    ts_ns: int
    time: str
    kind: str
    text: str
    details: dict[str, Any]


class EventsPage(TypedDict):
    """Events, and the place behind them: what to give as `stream` and `since` for those that come later."""

    events: list[EventView]
    stream: str
    since: int
