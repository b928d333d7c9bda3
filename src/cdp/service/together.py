"""One moment of several volumes of this process, as plain JSON.

Any thread.
"""
from collections.abc import Sequence

from cdp.service.local import VolumeService
from cdp.text.timestamps import utc
from cdp.views import BarrierView, MomentView


def together(services: Sequence[VolumeService], bookmark: str | None = None,
             keep_ns: int | None = None) -> BarrierView:
    """See cdp.volume.barrier."""
    from cdp.volume.barrier import barrier  # late: with a volume that is open, all that it needs is there

    found = barrier([service.volume for service in services], bookmark, keep_ns)
    moments = [MomentView(seq=at.seq, ts_ns=at.ts_ns, time=utc(at.ts_ns)) for at in found.moments]
    return BarrierView(moments=moments, pause_ns=found.pause_ns)
