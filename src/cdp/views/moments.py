"""Moments, and what names or changes them: the window, points, bookmarks, images, restores."""
from cdp.views.typed import TypedDict


class MomentView(TypedDict):
    """A moment of a volume. `time` is UTC."""

    seq: int
    ts_ns: int
    time: str


class GapView(TypedDict):
    """History from after `first` to before `last` that a destructive restore freed."""

    first: MomentView
    last: MomentView


class ClockStepView(TypedDict):
    """The clock went back at record `seq`: from `before`, the record before it, to `after`."""

    seq: int
    before: MomentView
    after: MomentView


class ThinningView(TypedDict):
    """From `first` to `last` only so many moments can be opened, these two among them: the tiers of the retention
    policy."""

    first: MomentView
    last: MomentView
    points: int


class WindowView(TypedDict):
    """What can be opened: oldest to newest, without the gaps and what was thinned. `clock_steps`: where the clock went
    back; `clock_behind_ns`: how far it is behind the newest record now, or 0."""

    oldest: MomentView
    newest: MomentView
    gaps: list[GapView]
    clock_steps: list[ClockStepView]
    clock_behind_ns: int
    thinned: ThinningView | None


class ExplanationView(TypedDict):
    """How a point was understood. `asked` is None for a point that is not a time. `durability` of what it shows, as of
    now: flushed (by the client), stored (on disk, though the client had not flushed all of it), or memory.
    `other_readings`: where the clock was set back, what a time might mean as well, though that is less likely.
    `not_kept`: what the point names, where that was thinned and `resolved` is the kept moment before it.
    `kept_by`: the rules of the retention policy and the pins that keep it, and for how long; none where there is no
    policy."""

    point: str
    kind: str
    asked_ts_ns: int | None
    asked: str | None
    resolved: MomentView
    next: MomentView | None
    flush_durable: bool
    last_flush: MomentView | None
    note: str
    durability: str
    other_readings: list[MomentView]
    not_kept: MomentView | None
    kept_by: list[str]


class BookmarkView(TypedDict):
    """`at`: what it names; `made`: when it was made."""

    name: str
    at: MomentView
    made: MomentView


class BarrierView(TypedDict):
    """One moment of several volumes, in the order in which they were named. pause_ns: for how long writers were held
    up."""

    moments: list[MomentView]
    pause_ns: int


class ImageView(TypedDict):
    """A writable image. `log_bytes`: what its own writes take; `children`: images made of it."""

    name: str
    path: str
    at: MomentView
    created_ns: int
    created: str
    size_bytes: int
    log_bytes: int
    children: int


class RestoreView(TypedDict):
    """A restore, done or (`dry_run`) only worked out. `bytes_hidden`: of later writes; None where it is not counted."""

    seq: int
    ts_ns: int
    time: str
    target: MomentView
    offset: int
    length: int
    destructive: bool
    undo_of: int | None
    undoable: bool
    bytes_hidden: int | None
    dry_run: bool
