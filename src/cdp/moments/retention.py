"""What a policy keeps of a history, and what it gives up: worked out, and nothing done.

A moment is kept by `all for S` while it is what a time within the last S means: until the record after it is older than
S. A tier `I for S` keeps, of each slot of I in which a record was made, the last flush-durable moment, else the last
one; and that until the next one that it keeps is older than S. A slot without records keeps nothing: a time in it means
the kept point before it.

Nothing before `first_seq` is needed. Pins hold that back, and so do restores: while one is inside the history, so is
what it shows. The limit may move it on, the floor says how far at most. What goes is whole segments of the log, the
oldest first: from `start_seq` on, all is there yet.

Invariants
  1. No moment that the floor, `all`, a tier or a pin keeps is before first_seq, and start_seq is not behind it.
  2. What is kept of a history at a later time, of that which there is now, is kept now.
  3. plan() reads of the history what it needs to answer: not more than some records for each point that is kept.

Pure functions, of what a History reads.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from cdp.moments.ages import Ages
from cdp.moments.clock import Stretch
from cdp.moments.model import Moment
from cdp.moments.policy import THIN, Policy, Tier
from cdp.moments.thinned import Thinned


class History(Protocol):
    """A volume's moments, from the oldest that can be opened to the newest. Those that a destructive restore freed, or
    thinning took, are not among them: what is asked for there is answered with the moment before."""

    oldest: Moment
    newest: Moment
    stretches: Sequence[Stretch]
    segments: Sequence[tuple[int, int]]
    """(last seq, bytes of log and index) of each sealed segment, ascending, but for the newest: what can be freed."""

    stays_seq: int
    """The last record of the newest sealed segment, which stays."""

    total_bytes: int
    """Of the log and its index, what is not sealed included."""

    restores: Sequence[tuple[int, int]]
    """(target, seq) of those that are inside the history."""

    thinned: Thinned
    """Which moments of the middle there still are."""

    def moment(self, seq: int) -> Moment: ...
    def at_time(self, ts_ns: int, stretch: Stretch) -> Moment: ...
    def last_flush(self, seq: int) -> int: ...


@dataclass(frozen=True)
class Pin:
    """Something that needs a moment. kind: bookmark, image, time image or undo; owner: its name; reason: in words;
    left_ns: so long it is a pin yet; None: until its owner ends it."""

    kind: str
    owner: str
    reason: str
    at: Moment
    left_ns: int | None = None


@dataclass(frozen=True)
class Kept:
    """What one rule keeps: so many points, from the oldest to the newest; seqs: which, of a tier (of `all`: none)."""

    rule: str
    points: int
    oldest: Moment
    newest: Moment
    seqs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """first_seq: the oldest moment that is needed. start_seq: the oldest one that is left where whole segments go.
    whole_seq: from it on every moment is kept by the rules.
    ruled_seq: what first_seq would be without pins and restores; held_by: which of them hold it, the oldest first.
    freed_bytes: of the segments before start_seq. over_bytes: by how much the rest is over the limit.
    limited: the limit takes moments that the rules would keep."""

    first_seq: int
    start_seq: int
    whole_seq: int
    ruled_seq: int
    kept: list[Kept]
    pins: list[Pin]
    held_by: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    over_bytes: int = 0
    limited: bool = False


def plan(policy: Policy, history: History, pins: Sequence[Pin], ages: Ages) -> Plan:
    """What `policy` keeps of `history` now."""
    search = _Search(history, ages)
    whole_seq = search.since(policy.tiers[0].span_ns)
    kept = [Kept(policy.tiers[0].text, history.thinned.openable(whole_seq, history.newest.seq),
                 history.moment(whole_seq), history.newest)]
    kept += [search.kept(tier) for tier in policy.tiers[1:]]
    by_rules = min(tier.oldest.seq for tier in kept)
    ruled_seq, limited = by_rules, False
    if policy.limit_bytes is not None and policy.when_full == THIN:
        over = history.total_bytes - policy.limit_bytes
        if over > 0:
            fits = min(_end_of(history, over), search.since(policy.floor_ns))
            ruled_seq, limited = max(by_rules, fits), fits > by_rules
        if limited:
            kept = [_from(rule, ruled_seq, history) for rule in kept]
    first_seq, held_by = held(ruled_seq, history, pins)
    start_seq = _start(first_seq, history, pins)
    freed = sum(size for last_seq, size in history.segments if last_seq <= start_seq)
    over = 0 if policy.limit_bytes is None else max(0, history.total_bytes - freed - policy.limit_bytes)
    return Plan(first_seq, start_seq, max(whole_seq, first_seq), ruled_seq, kept,
                sorted(pins, key=lambda pin: pin.at.seq), held_by, freed, over, limited)


def since(history: History, ages: Ages, span_ns: int | None) -> int:
    """The seq that was the newest so long ago (None: ever); the oldest that there is where the history begins later."""
    return _Search(history, ages).since(span_ns)


def held(seq: int, history: History, pins: Sequence[Pin]) -> tuple[int, list[str]]:
    """The last seq up to `seq` before which nothing is needed, and what holds it there."""
    held_by: list[str] = []
    moved = True
    while moved:
        moved = False
        for pin in pins:
            if pin.at.seq < seq:
                seq, moved = pin.at.seq, True
                held_by.append(f"{pin.kind} {pin.owner}".rstrip())
        for target, restore in history.restores:
            if target < seq < restore:
                seq, moved = target, True
                held_by.append(f"restore #{restore}, which shows #{target}")
    return max(seq, history.oldest.seq), held_by[::-1]


def _start(seq: int, history: History, pins: Sequence[Pin]) -> int:
    """The last end of a segment up to `seq` that can be the oldest moment, or the kept one after it where it was
    thinned; the oldest that there is where there is none. As cdp.volume.retention's free_before()."""
    for last_seq, _ in reversed(history.segments):
        found = history.thinned.following(last_seq)
        if found <= seq and found < history.stays_seq and held(found, history, pins)[0] == found:
            return max(found, history.oldest.seq)
    return history.oldest.seq


def _from(rule: Kept, seq: int, history: History) -> Kept:
    """What is left of a rule where nothing before `seq` is kept."""
    if rule.oldest.seq >= seq:
        return rule
    if not rule.seqs:
        return replace(rule, points=history.thinned.openable(seq, history.newest.seq), oldest=history.moment(seq))
    seqs = tuple(s for s in rule.seqs if s >= seq)
    return replace(rule, points=len(seqs), seqs=seqs, oldest=history.moment(seqs[0]) if seqs else rule.newest)


def _end_of(history: History, wanted_bytes: int) -> int:
    """The seq up to which there are so many bytes, in whole segments; the newest where there are less."""
    for last_seq, size in history.segments:
        wanted_bytes -= size
        if wanted_bytes <= 0:
            return last_seq
    return history.newest.seq


class _Search:
    """Finds moments by how old they are."""

    def __init__(self, history: History, ages: Ages):
        self._history, self._ages = history, ages

    def since(self, span_ns: int | None) -> int:
        """The seq that was the newest so long ago; the oldest that there is where the history begins later."""
        history = self._history
        lo, hi = history.oldest.seq, history.newest.seq
        if span_ns is None:
            return lo
        limit = self._ages.now.elapsed_ns - span_ns
        if self._ages.elapsed(history.oldest) > limit:
            return lo
        while lo < hi:
            middle = (lo + hi + 1) // 2
            if self._ages.elapsed(history.moment(middle)) <= limit:
                lo = middle
            else:
                hi = middle - 1
        return history.moment(lo).seq

    def kept(self, tier: Tier) -> Kept:
        """The points of a tier."""
        limit = None if tier.span_ns is None else self._ages.now.elapsed_ns - tier.span_ns
        found: list[Moment] = []
        for stretch in reversed(self._history.stretches):
            if self._points(tier.interval_ns, stretch, limit, found):
                break
        return Kept(tier.text, len(found), found[-1], found[0], tuple(m.seq for m in reversed(found)))

    def _points(self, interval_ns: int, stretch: Stretch, limit: int | None, found: list[Moment]) -> bool:
        """Append the points of a stretch, the newest first; True: an older one is not kept."""
        history = self._history
        first_seq, last_seq = max(stretch.first_seq, history.oldest.seq), min(stretch.last_seq, history.newest.seq)
        if first_seq > last_seq:
            return False
        last = history.moment(last_seq)
        while last.seq >= first_seq:
            begins_ns = last.ts_ns // interval_ns * interval_ns
            point = last
            flush_seq = history.last_flush(last.seq)
            if flush_seq >= first_seq:
                flushed = history.moment(flush_seq)
                if flushed.seq >= first_seq and flushed.ts_ns >= begins_ns:
                    point = flushed
            if not found or point.seq < found[-1].seq:
                found.append(point)
            if limit is not None and self._ages.elapsed(point) <= limit or begins_ns <= stretch.start_ns:
                break
            before = history.at_time(begins_ns - 1, stretch)
            if before.seq >= last.seq:
                break
            last = before
        return limit is not None and bool(found) and self._ages.elapsed(found[-1]) <= limit
