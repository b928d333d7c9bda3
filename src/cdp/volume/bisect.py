"""bisect: the last good and the first bad moment of a volume, found with a test that tells them apart.

As `cdp bisect`, in one process: moments right after a flush first, then the records between two of them.
"""
from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from cdp.moments.bisection import BAD, GOOD, SKIP, search
from cdp.moments.model import Moment
from cdp.moments.points import PointLike
from cdp.moments.records import matching
from cdp.volume.volume import Volume
from cdpcore.base.errors import InvalidRequest, RefusedPoint

CHANGES = ("write", "zero", "trim", "restore")


@dataclass(frozen=True)
class Bisected:
    """What bisect() found. `unknown`: moments between the two that the test could not tell; probes: how many it saw."""

    good: Moment
    bad: Moment
    unknown: tuple[Moment, ...]
    probes: int


def bisect(volume: Volume, good: PointLike, bad: PointLike, test: Callable[[Volume], bool | None], *,
           flushes: bool = False) -> Bisected:
    """The last good and the first bad moment between two points; both are tried first.

    `test` gets each moment as a throw-away writable image, open, and answers True (good), False (bad) or None (cannot
    tell). What it raises is raised; the image is deleted whatever happens. `flushes`: only moments right after a flush.
    A million moments take some 20 tests. Raises InvalidRequest where the points are not good and bad, in this order.
    """
    first, last = volume.resolve(good), volume.resolve(bad)
    if first.seq >= last.seq:
        raise InvalidRequest(f"{good} (#{first.seq}) is not before {bad} (#{last.seq})", "exchange the two")
    answers: dict[int, str] = {}

    def probe(seqs: list[int]) -> list[str]:
        for seq in seqs:
            answers[seq] = _probe(volume, seq, test)
        return [answers[seq] for seq in seqs]

    for moment, expected, point in ((first, GOOD, good), (last, BAD, bad)):
        if (found := probe([moment.seq])[0]) != expected:
            raise InvalidRequest(f"{point} (#{moment.seq}) is {'not known' if found == SKIP else found}, and was given "
                                 f"as {expected}", "give another point")

    def narrowed(seqs: list[int], lo: int, hi: int) -> tuple[int, int]:
        found = search(len(seqs), lambda chosen: probe([seqs[i] for i in chosen]))
        return seqs[found.good] if found.good >= 0 else lo, seqs[found.bad] if found.bad < len(seqs) else hi

    lo, hi = narrowed(_seqs(volume, first.seq, last.seq - 1, ("flush",)), first.seq, last.seq)
    if not flushes and (changes := _seqs(volume, lo, hi, CHANGES)):
        lo, hi = narrowed(changes[:-1], lo, changes[-1])    # the last change is what the bad moment shows
    thinned = volume._store.thinned
    hi = thinned.following(hi)      # a change that was thinned is what the kept moment after it shows
    unknown = sorted(seq for seq, answer in answers.items() if answer == SKIP and lo < seq < hi
                     and thinned.at(seq) == seq)
    return Bisected(volume.resolve(f"#{lo}"), volume.resolve(f"#{hi}"),
                    tuple(volume.resolve(f"#{seq}") for seq in unknown), len(answers))


def _probe(volume: Volume, seq: int, test: Callable[[Volume], bool | None]) -> str:
    name = f"bisect-{uuid.uuid4().hex[:12]}"
    try:
        volume.create_image(name, at=f"#{seq}!")
    except RefusedPoint:
        return SKIP     # of history that was freed or thinned
    try:
        with volume.open_image(name) as image:
            answer = test(image)
    finally:
        volume.delete_image(name)
    return SKIP if answer is None else GOOD if answer else BAD


def _seqs(volume: Volume, after: int, upto: int, kinds: tuple[str, ...]) -> list[int]:
    """The records after < seq <= upto of some kinds."""
    if upto <= after:
        return []
    return [seq for batch in volume.iter_records(f"#{after}", f"#{upto}")
            for seq in matching(batch, kinds, None)["seq"].tolist()]
