"""A volume as it is now, and what it is busy with."""
from typing import NotRequired

from cdp.views.capture import CaptureView
from cdp.views.moments import MomentView, WindowView
from cdp.views.retention import PolicyView
from cdp.views.status import AlertView, ServedView, StandbyView
from cdp.views.typed import TypedDict


class WritebackView(TypedDict):
    """A restore on its way to the disk of a before-image volume: bytes that are on it since opening, and that are not
    yet."""

    restore_seq: int
    bytes_done: int
    bytes_left: int


class FreeingView(TypedDict):
    """History that was given up and is not freed yet: `bytes_left` of the log; `folded_percent`: of the volume's
    address space, how much of it is in the base."""

    start: MomentView
    bytes_left: int
    folded_percent: float


class HistogramView(TypedDict):
    """Of times in ns. Quantiles are at most 12.5 % too high, and never above the maximum. buckets: [upper end, count],
    those that are not empty, where they were asked for."""

    count: int
    total_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int
    buckets: NotRequired[list[list[int]]]


class SourceView(TypedDict):
    """Reads, or parts of them, that one source answered."""

    count: int
    bytes: int


class MetricsView(TypedDict):
    """Where the time of a volume's requests goes since it was opened, at `at_ns` of the monotonic clock. By name:
    requests (read, write, flush) and their bytes, stages, sources of reads, queues as they are now
    (docs/architecture.md). log_bytes: what the log takes; log_bytes_written: what was written to it."""

    at_ns: int
    requests: dict[str, HistogramView]
    stages: dict[str, HistogramView]
    request_bytes: dict[str, int]
    sources: dict[str, SourceView]
    queues: dict[str, int]
    log_bytes: int
    log_bytes_written: int


class DeviceSpaceView(TypedDict):
    """Of a volume's device. state: "ok"; "low": less than the setting low_space_bytes is free; "full". left_s: seconds
    until it is full at the present rate; None: it is not filling up, or that is not known."""

    state: str
    free_bytes: int
    low_bytes: int
    left_s: int | None


class DiskChecksumsView(TypedDict):
    """The table of checksums of a protected disk, in blocks of 4 KiB. present: there is one, and it is kept.
    unknown_blocks: those without a checksum yet, or since a crash."""

    present: bool
    blocks: int
    unknown_blocks: int


class ProblemView(TypedDict):
    """One thing that is wrong on disk."""

    where: str
    what: str
    hint: str


class ScrubView(TypedDict):
    """Reading of all that is stored, beside the I/O, to compare it with its checksums. `percent`: how far the one that
    is under way has come, with `bytes_read` so far; None: none is under way. `last_ended`: when the last one ended,
    after reading `last_bytes`; None: none did. `problems`: what the last one and the one under way found, at most 64 of
    each; `n_problems`: how many that were. A served `cdp check` counts as one."""

    percent: float | None
    bytes_read: int
    last_ended_ns: int | None
    last_ended: str | None
    last_bytes: int
    problems: list[ProblemView]
    n_problems: int


class LastRestoreView(TypedDict):
    """The last restore or undo that the history holds. took_s: how long it took until it was shown; None: that was not
    in this opening."""

    at: MomentView
    took_s: float | None


class CopyView(TypedDict):
    """A copy of the volume, as who made it said: where; made: when; upto: the newest moment that it has; missing: the
    first one after that, None: there is none yet."""

    where: str
    made_ns: int
    made: str
    upto: MomentView
    missing: MomentView | None


class CopiesView(TypedDict):
    """The last backup (`cdp backup`) and the last archive (`cdp archive`); None: none was made of it here."""

    backup: CopyView | None
    archive: CopyView | None


class InfoView(TypedDict):
    """A volume at a glance; `stats` are the engine's counters. `freeing`: history on its way out; None: there is
    none. `alerts`: those that its server has raised; `alert_counts`: how often, by kind, since the server began.
    `standby`: of a served volume; None: it has none."""

    name: str
    path: str
    uuid: str
    size_bytes: int
    created_ns: int
    created: str
    parent: str | None
    window: WindowView
    bookmarks: int
    images: int
    restores: int
    served: ServedView | None
    disk: str | None
    disk_checksums: DiskChecksumsView | None
    writeback: WritebackView | None
    stats: dict[str, int]
    metrics: MetricsView
    capture: CaptureView | None
    retention: PolicyView
    freeing: FreeingView | None
    space: DeviceSpaceView | None
    scrub: ScrubView
    last_restore: LastRestoreView | None
    copies: CopiesView
    alerts: list[AlertView]
    alert_counts: dict[str, int]
    standby: StandbyView | None


class SealedView(TypedDict):
    """Everything up to the moment `upto` is in sealed segments; None: there are no records."""

    upto: MomentView | None


class CheckView(TypedDict):
    """What a check found."""

    ok: bool
    problems: list[ProblemView]
    segments: int
    frames: int
    records: int
    runs: int
    bytes_read: int
