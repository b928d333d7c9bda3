"""A capture of another machine's disk."""
from cdp.views.moments import MomentView
from cdp.views.typed import TypedDict


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
