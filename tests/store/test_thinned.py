"""The list of moments that thinning keeps, against sets of numbers: what a seq means, what a round takes, where data
may have become unseen, and where the history may start then."""
from __future__ import annotations

import random

import pytest

from cdp.moments import thinned as module
from cdp.moments.thinned import Thinned
from cdpcore.base.errors import InvalidRequest

NEWEST = 120


def shown(versions: list[int], moment: int) -> int:
    """The version of a sector that a moment shows; 0: the base."""
    return max((v for v in versions if v <= moment), default=0)


def is_open(list_: Thinned, seq: int) -> bool:
    return not list_.kept or seq in list_.kept or not list_.kept[0] < seq < list_.upto


def round_of(rng: random.Random, now: Thinned, openable: set[int], start: int) -> Thinned:
    upto = rng.choice([seq for seq in sorted(openable) if seq >= start])
    some = [seq for seq in openable if start < seq < upto and rng.random() < 0.3]
    return now.thinned_to(sorted({start, upto, *some}))


@pytest.mark.parametrize("seed", range(20))
def test_rounds(seed: int):
    rng = random.Random(seed)
    sectors = [sorted(rng.sample(range(1, NEWEST), rng.randrange(1, 40))) for _ in range(8)]
    now, openable, start = Thinned(), set(range(NEWEST + 1)), 0
    for _ in range(6):
        if rng.random() < 0.5:      # the oldest history goes, to a moment that can be opened
            start = now.following(rng.randrange(start, NEWEST // 2) if start < NEWEST // 2 else start)
            openable = {seq for seq in openable if seq >= start}
        then = round_of(rng, now, openable, start)
        left = {seq for seq in openable if is_open(then, seq)}
        assert left == {seq for seq in openable if seq in then.kept or seq > then.upto}
        assert all(then.todo[i][1] < then.todo[i + 1][0] for i in range(len(then.todo) - 1))
        for lo, hi in then.todo:
            assert lo < hi and (any(lo < seq < hi for seq in openable - left)
                                or any(a < hi and lo < b for a, b in now.todo))
        for versions in sectors:
            lost = {shown(versions, seq) for seq in openable} - {shown(versions, seq) for seq in left} - {0}
            for version in lost:
                assert any(lo < version <= hi for lo, hi in then.todo), f"{version} of {then}"
        for seq in range(start, NEWEST + 1):
            assert then.at(seq) == max(s for s in left if s <= seq)
            assert then.following(seq) == min(s for s in left if s >= seq)
        for first in range(start, NEWEST, 7):
            for last in range(first - 1, NEWEST, 11):
                assert then.openable(first, last) == len([s for s in left if first <= s <= last])
        upto = rng.randrange(NEWEST)
        assert covered(then.done(upto)) == {seq for seq in covered(then) if seq > upto}
        now, openable = rng.choice((then, then.done(upto), then.done(NEWEST))), left


def covered(now: Thinned) -> set[int]:
    return {seq for lo, hi in now.todo for seq in range(lo + 1, hi + 1)}


@pytest.mark.parametrize("seed", range(20))
def test_where_the_history_may_start(seed: int):
    """Segments up to a record go. What the base gets is what the first kept moment after that shows: right for every
    moment that can be opened, and made of data that is there. The content at the record itself is neither."""
    rng = random.Random(seed)
    now = round_of(rng, Thinned(), set(range(NEWEST + 1)), 0)
    for _ in range(10):
        versions = sorted(rng.sample(range(1, NEWEST), rng.randrange(1, 40)))
        moments = [seq for seq in range(NEWEST + 1) if is_open(now, seq)]
        there = {shown(versions, seq) for seq in moments}
        end = rng.randrange(1, NEWEST)
        start = now.following(end)
        base = shown(versions, start)
        assert base in there
        for seq in moments:
            if seq >= start and shown(versions, seq) <= end:    # not in the log any more
                assert shown(versions, seq) == base


def test_the_end_of_a_segment_is_no_start():
    """A sector with the versions 2 and 5, and only the moments 0 and 6 stay up to 6: version 2 is seen by none of them,
    and the content at the end of a segment, record 3, needs it."""
    now = Thinned().thinned_to([0, 6])
    assert now.todo == ((0, 6),) and shown([2, 5], 3) == 2
    assert shown([2, 5], now.following(3)) == 5


def test_a_moment_that_is_gone_does_not_come_back():
    now = Thinned().thinned_to([0, 10, 20])
    with pytest.raises(InvalidRequest, match=r"#15 was thinned already.*"):
        now.thinned_to([0, 15, 20])
    assert now.thinned_to([0, 10]).kept == (0, 10, 20)      # a policy that keeps more: what is gone stays so
    assert now.thinned_to([0, 10, 20, 30, 31]).todo == ((0, 30),)
    assert now.done(20).thinned_to([0, 10, 20, 30, 31]).todo == ((20, 30),)
    assert now.done(20).thinned_to([0, 20]).todo == ((0, 20),)


def test_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_KEPT", 10)
    Thinned().thinned_to(range(10))
    with pytest.raises(InvalidRequest, match="11 points, 10 are the most"):
        Thinned().thinned_to(range(11))
