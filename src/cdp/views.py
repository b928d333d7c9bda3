"""What an operation on a volume answers, as plain JSON: one vocabulary for the command line, the HTTP API and the
Python service.

Invariants
  1. Every answer is made of dict, list, str, int, bool and None, with the fields of the classes below; fields are only
     ever added. A moment carries its time as text beside the integer, because a double cannot hold nanoseconds since
     1970.
  2. Every call is bounded: content by MAX_PIECE_BYTES, extents and records by a page.
"""
import sys
from typing import NotRequired, Protocol

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic cannot read the field types of the older one
    from typing_extensions import TypedDict


MAX_PIECE_BYTES = 32 << 20
MAX_PAGE_EXTENTS = 65_536
MAX_PAGE_RECORDS = 100_000
MAX_PAGE_ROWS = 250_000     # of binary records, 34 bytes each
MAX_PLACED_INTERVALS = 2_000    # of activity by place, some 64 numbers each


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


class WindowView(TypedDict):
    """What can be opened: oldest to newest, without the gaps. `clock_steps`: where the clock went back;
    `clock_behind_ns`: how far it is behind the newest record now, or 0."""

    oldest: MomentView
    newest: MomentView
    gaps: list[GapView]
    clock_steps: list[ClockStepView]
    clock_behind_ns: int


class ExplanationView(TypedDict):
    """How a point was understood. `asked` is None for a point that is not a time. `durability` of what it shows, as of
    now: flushed (by the client), stored (on disk, though the client had not flushed all of it), or memory.
    `other_readings`: where the clock was set back, what a time might mean as well, though that is less likely.
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


class CaptureView(TypedDict):
    """What a volume captures (`running`), or captured last. kind: log or mirror; None where it does not apply or is not
    known.

    Of a log: entries taken, their bytes of the log, and what it counts beyond: entries, bytes, and for how long. Of a
    mirror: connections that write now, bytes that they wrote, the first moment that was whole, and the latest.
    """

    kind: str
    source: str
    running: bool
    seq: int
    entries: int | None
    log_bytes: int | None
    behind_entries: int | None
    behind_bytes: int | None
    behind_ns: int | None
    connections: int | None
    written_bytes: int | None
    synced: MomentView | None
    whole: MomentView | None
    note: str


class PinView(TypedDict):
    """What needs a moment. kind: bookmark, image, time image or undo; `left_ns`: so long it is a pin yet, None: until
    its owner ends it."""

    kind: str
    owner: str
    reason: str
    at: MomentView
    left_ns: int | None


class PolicyView(TypedDict):
    """The retention policy: `policy` is its TOML text, None where there is none; `keep` its rules. `last_run`: when it
    was applied; `next_run_ns`: from now; `freed_bytes`: by all runs; `failed`: why the last run did not do it.
    `writes`: what the limit does to them: go on, slowed or refused; `room_bytes`: what may still be written until they
    are refused, None: as much as comes; `rate_bytes`: a second, where they are slowed; `refused`, `slowed`: how many
    were, since the volume was opened."""

    policy: str | None
    keep: list[str]
    floor_ns: int | None
    undo_ns: int | None
    limit_bytes: int | None
    when_full: str | None
    last_run: str | None
    next_run_ns: int | None
    freed_bytes: int
    failed: str | None
    writes: str
    room_bytes: int | None
    rate_bytes: int | None
    refused: int
    slowed: int


class KeptView(TypedDict):
    """What one rule keeps: so many points, from `oldest` to `newest`."""

    rule: str
    points: int
    oldest: MomentView
    newest: MomentView


class PlanView(TypedDict):
    """What a policy keeps of a volume now. `start`: the oldest moment that could be opened after it was applied;
    `needed`: the oldest one that it asks for (history goes in whole segments, so `start` may be older); `whole`: from
    it on every moment is kept. `held_by`: what keeps more than the rules do.
    `thinned_bytes`: about how much data of the rest no kept point shows, None where `all` is the only tier.
    `over_bytes`: by how much the rest is over the limit; `when_full`: what happens then; `limited`: the limit takes
    what the rules would keep. `bytes_a_day`: at today's rate, None where that is not known; `days_in_limit` at that
    rate. `cannot`: why this release does not carry such a policy out."""

    keep: list[str]
    limit_bytes: int | None
    when_full: str | None
    oldest: MomentView
    newest: MomentView
    start: MomentView
    needed: MomentView
    whole: MomentView
    kept: list[KeptView]
    pins: list[PinView]
    held_by: list[str]
    history_bytes: int
    freed_bytes: int
    thinned_bytes: int | None
    over_bytes: int
    limited: bool
    records_lost: int
    bookmarks_lost: list[str]
    bytes_a_day: int | None
    days_in_limit: float | None
    cannot: str | None


class PruneView(TypedDict):
    """History that was given up by the policy, or (`dry_run`) would be: the oldest moment was `before`, and is
    `start`."""

    dry_run: bool
    before: MomentView
    start: MomentView
    freed_bytes: int
    held_by: list[str]


class SpaceView(TypedDict):
    """What a volume takes on the device, in allocated bytes, by what: `log_ahead_bytes` of `log_bytes` are allocated
    and not written yet. `history_bytes`: what a limit counts. `bytes_a_day`: how fast that grows; `levels_off_bytes`:
    what it comes to with the policy at that rate; `days_to_limit`, `days_to_full`: until it meets the limit, and until
    the device is full; None: never, or not known."""

    total_bytes: int
    log_bytes: int
    log_ahead_bytes: int
    index_bytes: int
    base_bytes: int
    images_bytes: int
    catalog_bytes: int
    reserve_bytes: int
    other_bytes: int
    device_free_bytes: int
    device_bytes: int
    history_bytes: int
    bytes_a_day: int | None
    limit_bytes: int | None
    levels_off_bytes: int | None
    days_to_limit: float | None
    days_to_full: float | None


class NotOpenView(TypedDict):
    """A volume of a server that is not served, yet. state: opening; cannot be opened, and `error` says why."""

    name: str
    path: str
    state: str
    error: str | None


class ServedVolumeView(TypedDict):
    """A volume that some server has; or a server that does not answer, with little more than its socket. `clients`: NBD
    connections to the volume and its moments."""

    name: str | None
    path: str | None
    state: str
    pid: int | None
    admin_socket: str
    uris: list[str]
    size_bytes: int | None
    newest_seq: int | None
    clients: int | None


class AlertView(TypedDict):
    """An alert that is raised, since `since`. kind: forecast, floor, limit, maintenance, scrub, clock, unflushed or
    suspicious; level: warning or error; `what` happened, and a `hint` what to do."""

    kind: str
    level: str
    what: str
    hint: str
    since_ns: int
    since: str


class StatusView(TypedDict):
    """One volume. state: serving, not served, does not answer, failed. flushed: the newest moment that a client
    flushed; unflushed_ns: the age of the oldest write after it. days_left: until the device is full. attention: what
    needs it, a line each. alerts: what its server has raised. None: not known."""

    volume: str
    state: str
    pid: int | None
    oldest: MomentView | None
    newest: MomentView | None
    flushed: MomentView | None
    unflushed_ns: int | None
    clients: int | None
    history_bytes: int | None
    total_bytes: int | None
    free_bytes: int | None
    days_left: float | None
    attention: list[str]
    alerts: list[AlertView]


class ServedView(TypedDict):
    """The server that holds a volume."""

    pid: int
    admin_socket: str
    name: str
    uris: list[str]


class ClientView(TypedDict):
    """An NBD connection to a volume or one of its moments. `who`: the client, for people; `written_bytes`: None where
    that is not counted."""

    connection: int
    export: str
    who: str
    read_only: bool
    connected_ms: int
    written_bytes: int | None


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


class InfoView(TypedDict):
    """A volume at a glance; `stats` are the engine's counters. `freeing`: history on its way out; None: there is
    none. `alerts`: those that its server has raised; `alert_counts`: how often, by kind, since the server began."""

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
    alerts: list[AlertView]
    alert_counts: dict[str, int]


class SealedView(TypedDict):
    """Everything up to the moment `upto` is in sealed segments; None: there are no records."""

    upto: MomentView | None


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


class CheckView(TypedDict):
    """What a check found."""

    ok: bool
    problems: list[ProblemView]
    segments: int
    frames: int
    records: int
    runs: int
    bytes_read: int


class Service(Protocol):
    """What VolumeService and cdp.service.remote.RemoteService both offer. Errors are the kinds of
    cdpcore.base.errors."""

    def info(self) -> InfoView: ...
    def metrics(self, buckets: bool = False) -> MetricsView: ...
    def window(self) -> WindowView: ...
    def explain(self, point: str) -> ExplanationView: ...
    def bookmark(self, name: str, at: str = "now", keep_ns: int | None = None) -> BookmarkView: ...
    def bookmarks(self) -> list[BookmarkView]: ...
    def delete_bookmark(self, name: str) -> None: ...
    def create_image(self, name: str, at: str = "now") -> ImageView: ...
    def images(self) -> list[ImageView]: ...
    def delete_image(self, name: str) -> None: ...
    def restore(self, point: str, offset: int | None = None, length: int | None = None, destructive: bool = False,
                dry_run: bool = False, force: bool = False) -> RestoreView: ...
    def undo(self, dry_run: bool = False, force: bool = False) -> RestoreView: ...
    def clients(self) -> list[ClientView]: ...
    def restores(self) -> list[RestoreView]: ...
    def pins(self) -> list[PinView]: ...
    def policy(self) -> PolicyView: ...
    def set_policy(self, policy: str | None, yes: bool = False) -> PolicyView: ...
    def simulate(self, policy: str | None = None) -> PlanView: ...
    def prune(self, dry_run: bool = False) -> PruneView: ...
    def space(self) -> SpaceView: ...
    def seal(self) -> SealedView: ...
    def segments(self, after: int = 0, limit: int = 1000) -> SegmentsPage: ...
    def records(self, since: str | None = None, until: str = "now", limit: int = 1000) -> RecordsPage: ...
    def history(self, since: str | None = None, until: str = "now", limit: int = MAX_PAGE_ROWS, kinds: str = "",
                offset: int | None = None, length: int | None = None) -> tuple[bytes, str | None]: ...
    def versions(self, offset: int, length: int, since: str | None = None, until: str = "now",
                 limit: int = 1000) -> VersionsPage: ...
    def diff(self, a: str, b: str = "now", offset: int = 0, length: int | None = None, compared: bool = True,
             limit: int = MAX_PAGE_EXTENTS) -> DiffPage: ...
    def activity(self, since: str | None = None, until: str = "now", by_ns: int | None = None,
                 places: bool = False) -> ActivityView: ...
    def map(self, offset: int = 0, length: int | None = None, at: str | None = None,
            limit: int = MAX_PAGE_EXTENTS) -> MapPage: ...
    def read(self, offset: int, length: int, at: str | None = None) -> bytes: ...
    def write(self, offset: int, data: bytes, fua: bool = False) -> None: ...
    def zero(self, offset: int, length: int, hole: bool = False) -> None: ...
    def flush(self) -> None: ...
    def check(self) -> CheckView: ...
