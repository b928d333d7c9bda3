"""One moment of several volumes of this process, and a bookmark of it in each.

Threading: any thread. The volumes' own locks are held meanwhile, in the order of their uuids: no restore, bookmark or
giving up of history of any of them comes in between. Their writers are held up for the barrier itself only, some
microseconds.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from cdp.moments.model import Bookmark, Moment
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError, InvalidRequest
from cdpcore.volume.barrier import positions

LIMIT_NS = 250_000_000      # writers are held up no longer, where a device is slow


@dataclass(frozen=True)
class Together:
    """What several volumes were at one moment, in the order in which they were given. pause_ns: how long writers were
    held up. bookmarks: in each of them; None: none were asked for."""

    moments: tuple[Moment, ...]
    pause_ns: int
    bookmarks: tuple[Bookmark, ...] | None = None


@contextmanager
def _locked(volumes: Sequence[Volume]) -> Iterator[None]:
    if len({id(volume) for volume in volumes}) < len(volumes):
        raise InvalidRequest("a volume is there twice", "name each once")
    with ExitStack() as stack:
        for volume in sorted(volumes, key=lambda volume: (volume.uuid, volume.path)):
            stack.enter_context(volume._lock)
            volume._alive()
        yield


def barrier(volumes: Sequence[Volume], name: str | None = None, keep_ns: int | None = None,
            limit_ns: int = LIMIT_NS) -> Together:
    """The present moment of all `volumes`: every write that was acknowledged before is in, none that begins after, and
    where a write to one was sent after one to another was acknowledged, the second is in only if the first is.

    name: a bookmark of it in each, durable at return, in all of them or none; keep_ns: as for Volume.bookmark. Raises
    InvalidRequest, Closed, OutOfSpace, Unavailable (read-only, or a device so slow that not all could be held).
    """
    with _locked(volumes):
        for volume in volumes if name is not None else ():
            volume._writable()
            volume._bookmarks.check_name(name or "")
        found, pause_ns = positions([volume._core for volume in volumes], limit_ns)
        moments = tuple(Moment(*one) if one[0] > volume._store.timeline.start.seq else volume._store.timeline.start
                        for one, volume in zip(found, volumes, strict=True))
        if name is None:
            return Together(moments, pause_ns)
        made = list[tuple[Volume, Bookmark]]()
        try:
            for volume, moment in zip(volumes, moments, strict=True):
                volume.policy_keeper.pin_bookmark(name, keep_ns)
                made.append((volume, volume._bookmarks.create(name, moment)))
        except CdpError:
            for volume, _ in made:
                with suppress(CdpError):    # what is left then, a group's next command takes away
                    volume._bookmarks.delete(name)
            raise
        return Together(moments, pause_ns, tuple(mark for _, mark in made))
