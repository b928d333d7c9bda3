"""What happens to an open volume, as a stream of events for who wants to know: bookmarks, restores, images, alerts ...

Invariants
  1. publish() never waits for a watcher: the last KEPT events are kept, once for all watchers, and a watcher is a place
     among them. One that is too slow gets an event `lost` that says how many it did not get.
  2. Events of a stream are numbered from 1 without holes. A stream lasts as long as its volume is open.
Threading: any thread. A child of a fork has no watches.
"""
from __future__ import annotations

import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cdp.text.sizes import approx_duration, approx_size
from cdpcore.base.errors import Closed, InvalidRequest

KEPT = 1024

DETAILS: dict[str, tuple[str, ...]] = {
    "bookmark_made": ("name", "seq", "ts_ns"),
    "bookmark_removed": ("name",),
    "restored": ("seq", "target_seq", "target_ts_ns", "offset", "length", "destructive"),
    "undone": ("seq", "undo_of", "target_seq", "target_ts_ns", "offset", "length"),
    "image_created": ("image", "seq", "ts_ns"),
    "image_deleted": ("image",),
    "image_opened": ("image",),
    "image_closed": ("image",),
    "alert_raised": ("alert", "level", "hint"),
    "alert_cleared": ("alert", "level"),
    "history_freed": ("seq", "ts_ns", "bytes"),
    "scrub_ended": ("bytes", "problems"),
    "clock_stepped": ("seq", "before_ns", "after_ns"),
    "space_low": ("free_bytes", "device"),
    "space_ok": ("free_bytes", "device"),
    "archived": ("url", "seq", "ts_ns"),
    "backed_up": ("folder", "seq", "ts_ns"),
    "maintenance_began": ("work", "seq"),
    "maintenance_ended": ("work", "seq"),
    "handed_over": ("pid", "connections"),
    "lost": ("count",),
}
"""The kinds of events, and what each says in its `details`."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a volume. number: of this event in its `stream`, from 1 up. ts_ns: UTC ns since 1970.
    kind: bookmark_made, bookmark_removed, restored, undone, image_created, image_deleted, image_opened, image_closed,
    alert_raised, alert_cleared, history_freed, scrub_ended, clock_stepped, space_low, space_ok, archived: an archive
    has all up to a moment, backed_up: a backup has, maintenance_began, maintenance_ended: history that was given up is
    being freed (`work`: freeing, or thinning where it is of the middle), handed_over: a process took over from another,
    or lost: events were, `count` of them (None: not known). text: for people. details: what
    cdp.moments.events.DETAILS names for the kind."""

    number: int
    stream: str
    ts_ns: int
    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


def lost(number: int, stream: str, ts_ns: int, count: int | None) -> Event:
    """Up to `number`, so many events were."""
    many = "events" if count is None else "1 event" if count == 1 else f"{count} events"
    why = "those of another opening are gone" if count is None else "they came too fast, or were too long ago"
    return Event(number, stream, ts_ns, "lost", f"{many} were lost: {why}", {"count": count})


def place_of(since: Event | int | None, stream: str | None, timeout_s: float | None) -> tuple[int | None, str | None]:
    """The number and the stream that a watch begins after. Raises InvalidRequest for what is none, or no timeout."""
    if isinstance(since, Event):
        stream, since = since.stream, since.number
    if since is not None and (isinstance(since, bool) or not isinstance(since, int) or since < 0):
        raise InvalidRequest(f"since {since!r} is not the number of an event", "give a whole number from 0 up")
    if timeout_s is not None and not timeout_s >= 0:
        raise InvalidRequest(f"a timeout of {timeout_s!r} seconds", "give a number from 0 up, or None")
    return since, stream


def kinds_of(kinds: Iterable[str] | None) -> frozenset[str] | None:
    """Raises InvalidRequest for what is no kind."""
    wanted = None if kinds is None else frozenset(kinds)
    if wanted is not None and (unknown := sorted(wanted - set(DETAILS))):
        raise InvalidRequest(f"no kind of event {unknown[0]!r}", f"there are {', '.join(DETAILS)}")
    return wanted


class Events:
    """The events of one open volume. now_ns: a wall clock; kept: so many are."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns, kept: int = KEPT):
        self._now_ns = now_ns
        # Reentrant: a volume that nobody closed may be collected, and closed, wherever memory is allocated.
        self._changed = threading.Condition(threading.RLock())
        self._kept: deque[Event] = deque(maxlen=kept)     # guarded by _changed, as all below
        self._stream, self._number = uuid.uuid4().hex[:8], 0
        self._closed = self._low = False
        self._calls: dict[object, tuple[int, Callable[[], None]]] = {}      # to be called once there is an event after

    @property
    def closed(self) -> bool:
        return self._closed

    def publish(self, kind: str, text: str, **details: Any) -> None:
        """Never waits, never raises for a watcher's sake."""
        assert set(details) == set(DETAILS[kind]), f"{kind} has {DETAILS[kind]}"
        ts_ns = self._now_ns()
        with self._changed:
            if self._closed:
                return
            self._number += 1
            self._kept.append(Event(self._number, self._stream, ts_ns, kind, text, details))
            self._changed.notify_all()
            for number, call in list(self._calls.values()):
                if number < self._number:
                    call()

    def clock_stepped(self, seq: int, before_ns: int, after_ns: int) -> None:
        """The clock was set, about at record seq."""
        way = "back" if after_ns < before_ns else "forward"
        by = approx_duration(abs(after_ns - before_ns))
        self.publish("clock_stepped", f"the clock was set {way} by {by}, about at #{seq}", seq=seq, before_ns=before_ns,
                     after_ns=after_ns)

    def maintenance(self, began: bool, work: str, seq: int) -> None:
        """A round of freeing or thinning, of what was given up up to record seq, begins or ends."""
        what = f"what was given up before #{seq}" if work == "freeing" else f"what nothing shows up to #{seq}"
        self.publish("maintenance_began" if began else "maintenance_ended",
                     f"{work} {'began' if began else 'ended'}: {what}", work=work, seq=seq)

    def handed_over(self, connections: int) -> None:
        """This process has taken over from another, with so many connections."""
        pid = os.getpid()
        many = "1 connection" if connections == 1 else f"{connections} connections"
        self.publish("handed_over", f"process {pid} took over, with {many}", pid=pid, connections=connections)

    def space_is(self, low: bool, free_bytes: int, device: str) -> None:
        """The device has so much left. An event where it has become low, or is so no longer: of each volume on it, so
        `device`, its numbers, tells who watches many that it is one."""
        with self._changed:
            was, self._low = self._low, low
        if low and not was:
            self.publish("space_low", f"the device is running out of space: {approx_size(free_bytes)} free",
                         free_bytes=free_bytes, device=device)
        elif was and not low:
            self.publish("space_ok", f"the device has space again: {approx_size(free_bytes)} free",
                         free_bytes=free_bytes, device=device)

    def watch(self, since: Event | int | None = None, timeout_s: float | None = None, *,
              kinds: Iterable[str] | None = None, stream: str | None = None) -> Watch:
        """See Volume.watch. stream: that `since` is a number of."""
        number, stream = place_of(since, stream, timeout_s)
        wanted = kinds_of(kinds)
        with self._changed:
            if number is None:
                return Watch(self, self._number, timeout_s, wanted, False)
            foreign = (stream is not None and stream != self._stream) or number > self._number
            return Watch(self, 0 if foreign else number, timeout_s, wanted, foreign)

    def call_after(self, number: int, call: Callable[[], None]) -> Callable[[], None]:
        """call(), which must neither wait nor raise, is called with each event after `number`, and when the volume is
        closed; at once where that is so already. Until what this returns is called."""
        key = object()
        with self._changed:
            self._calls[key] = number, call
            if self._closed or self._number > number:
                call()

        def forget() -> None:
            with self._changed:
                self._calls.pop(key, None)

        return forget

    def close(self) -> None:
        """The volume is closed: watches end when they have got what there is. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for _, call in list(self._calls.values()):
                call()

    def _take(self, watch: Watch) -> Event | None:
        """The next event for a watch; None: there is none yet. With _changed."""
        first = self._number - len(self._kept) + 1      # the number of the oldest that is kept
        if watch._foreign:
            watch._foreign, watch._number = False, first - 1
            return lost(first - 1, self._stream, self._now_ns(), None)
        if watch._number < first - 1:
            count, watch._number = first - 1 - watch._number, first - 1
            return lost(first - 1, self._stream, self._now_ns(), count)
        while watch._number < self._number:
            event = self._kept[watch._number + 1 - first]
            watch._number += 1
            if watch._kinds is None or event.kind in watch._kinds:
                return event
        return None


class Watch:
    """The events of a volume, one after the other: an iterator and a context manager. It ends when the volume is
    closed, after close(), and, with a timeout, when nothing came for so long. It keeps no volume open."""

    def __init__(self, events: Events, number: int, timeout_s: float | None, kinds: frozenset[str] | None,
                 foreign: bool):
        self._events, self._timeout_s, self._kinds = events, timeout_s, kinds
        self._number, self._foreign = number, foreign       # guarded by the stream's lock, as _over
        self._over, self._pid = False, os.getpid()

    @property
    def closed(self) -> bool:
        """Whether no more will come than what came already."""
        return self._over or self._events.closed

    def get(self, timeout_s: float | None = None) -> Event | None:
        """The next event, waited for as long as that (None: for ever; 0: not at all). None: nothing came, or it is
        over."""
        if self._pid != os.getpid():
            raise Closed("this watch is of the process that was forked", "watch the volume in that one")
        changed, until_s = self._events._changed, None if timeout_s is None else time.monotonic() + timeout_s
        with changed:
            while not self._over:
                event = self._events._take(self)
                if event is not None:
                    return event
                left_s = None if until_s is None else until_s - time.monotonic()
                if self._events.closed or (left_s is not None and left_s <= 0):
                    return None
                changed.wait(left_s)
            return None

    def place(self) -> tuple[str, int]:
        """The stream, and the last event that it went past."""
        with self._events._changed:
            return self._events._stream, self._number

    def close(self) -> None:
        """It ends, also for a thread that waits in it. Idempotent."""
        with self._events._changed:
            self._over = True
            self._events._changed.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.get(self._timeout_s)
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
