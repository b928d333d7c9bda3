"""A capture as plain data for `cdp info` and `cdp capture --status`: while it runs, or as it ended."""
from __future__ import annotations

from cdp.capture import position as positions
from cdp.capture.follow import Status
from cdp.capture.position import LogPosition, MirrorPosition
from cdp.capture.source import LogSource
from cdp.text.timestamps import utc
from cdp.views import CaptureView, MomentView
from cdpcore.base.errors import CdpError


def of_log(source: str, running: bool, status: Status) -> CaptureView:
    return CaptureView(kind="log", source=source, running=running, seq=status.seq, entries=status.entries,
                       log_bytes=status.position, behind_entries=status.behind_entries,
                       behind_bytes=status.behind_bytes, behind_ns=status.behind_ns,
                       connections=None, written_bytes=None, synced=None, whole=None, note=status.note)


def of_mirror(position: MirrorPosition, seq: int, connections: int | None, written_bytes: int | None,
              note: str) -> CaptureView:
    return CaptureView(kind="mirror", source=position.source, running=connections is not None, seq=seq, entries=None,
                       log_bytes=None, behind_entries=None, behind_bytes=None, behind_ns=None, connections=connections,
                       written_bytes=written_bytes, synced=_moment(position.synced),
                       whole=_moment(position.whole[-1] if position.whole else None), note=note)


def stored(directory: str) -> CaptureView | None:
    """Of a volume that captures nothing now. Where its log can be read: how far behind a capture would begin."""
    position = positions.load(directory)
    if position is None:
        return None
    if isinstance(position, MirrorPosition):
        return of_mirror(position, position.whole[-1][0] if position.whole else 0, None, None, "")
    return of_log(position.source, False, _left(position))


def _left(position: LogPosition) -> Status:
    place = position.place
    taken = Status(place.entries, place.position + place.inside, place.entries, position.seq)
    try:
        with LogSource(position.source) as source:
            head = source.super_block()
            size = source.size_bytes()
    except CdpError as error:
        return Status(taken.entries, taken.position, taken.counted, taken.seq, note=error.message)
    if head is None or head.entries < place.entries:
        return Status(taken.entries, taken.position, taken.counted, taken.seq, note=f"{position.source} was begun anew")
    return Status(taken.entries, taken.position, head.entries, taken.seq,
                  None if size is None else max(0, size - taken.position))


def _moment(found: tuple[int, int, int] | None) -> MomentView | None:
    return MomentView(seq=found[0], ts_ns=found[1], time=utc(found[1])) if found else None
