"""Views of a lineage against the definition, sector by sector, and what working one out costs."""
from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.seeds import examples

import cdp
from cdp.moments.lineage import NOW, PENDING, Interval, RestoreRecord, freed, gaps, view, view_before
from cdpcore.base.errors import OutOfSpace
from cdpcore.index.view import View

SECTORS = 24


def by_definition(seq: int, restores: list[RestoreRecord], sector: int) -> list[Interval]:
    """What a sector shows at `seq`: back from restore to restore, as docs/format.md says it."""
    intervals: list[Interval] = []
    hi = seq
    while True:
        r = next((r for r in reversed(restores) if r.seq <= hi and r.start <= sector < r.end), None)
        lo = r.seq if r else 0
        if hi > lo:
            intervals.append((lo, hi))
        if r is None:
            return intervals
        hi = r.target_seq


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[RestoreRecord], int]:
    restores, seq = list[RestoreRecord](), 0
    for _ in range(draw(st.integers(0, 12))):
        seq += draw(st.integers(1, 5))
        start = draw(st.integers(0, SECTORS - 1))
        restores.append(RestoreRecord(seq, seq, draw(st.integers(0, seq - 1)), start,
                                      draw(st.integers(start + 1, SECTORS))))
    return restores, draw(st.sampled_from([NOW, seq + 1, draw(st.integers(0, seq + 1))]))


@pytest.mark.soak
@examples(400)
@given(histories())
def test_as_defined(history: tuple[list[RestoreRecord], int]) -> None:
    restores, seq = history
    pieces = view(seq, restores, SECTORS)
    View(pieces)        # keeps the rules of the index
    assert [s for start, end, _ in pieces for s in range(start, end)] == list(range(SECTORS))
    for start, end, intervals in pieces:
        for sector in range(start, end):
            assert intervals == by_definition(seq, restores, sector)
    assert all(a[2] != b[2] for a, b in itertools.pairwise(pieces)), "neighbours that say the same are one"


def test_the_moment_between_two_gaps_can_be_opened() -> None:
    """Its versions cannot: those of both intervals are freed, up to and including its own."""
    first, second = (RestoreRecord(seq, seq, target, 0, 8, True, seq + 1) for seq, target in ((5, 1), (9, 5)))
    assert gaps([first, second]) == [(1, 5), (5, 9)]
    assert [freed(seq, gaps([first, second])) for seq in (1, 3, 5, 6, 9)] == [None, (1, 5), None, (5, 9), None]
    assert gaps([first, RestoreRecord(9, 9, 4, 0, 8, True)]) == [(1, 9)]
    assert view_before(NOW, [first, second], 8) == [(0, 8, [(0, NOW)], [(1, 9)])]


def test_cost() -> None:
    """16 times the ranges cost 16 times the lines of Python and a little; by the definition it would be 256 times."""
    def lines(n: int) -> int:
        restores = [RestoreRecord(10 * i + 5, 0, 10 * i, 16 * (i * 7919 % n), 16 * (i * 7919 % n) + 8)
                    for i in range(1, n + 1)]
        count = 0

        def trace(frame: FrameType, event: str, arg: object) -> object:
            nonlocal count
            count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            pieces = view(NOW, restores, 16 * n)
        finally:
            sys.settrace(before)
        assert len(pieces) == 2 * n
        return count

    assert lines(4096) < 20 * lines(256)


def test_undo_is_always_possible(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The bound on restores refuses a restore, says what to raise, warns before; undo goes on."""
    with cdp.create(tmp_path / "v", size=1 << 20, settings=cdp.Settings(max_restores=16)) as volume:
        for i in range(16):
            volume.pwrite(bytes([i + 1]) * 512, 512 * i)
            volume.restore("#0", offset=512 * i, length=512)
        assert "16 is the bound" in caplog.text
        with pytest.raises(OutOfSpace, match="undo still works") as refused:
            volume.restore("#0")
        assert "max_restores=32" in refused.value.hint
        for i in reversed(range(16)):
            volume.undo()
            assert volume.pread(512, 512 * i) == bytes([i + 1]) * 512
        assert not any(r.undoable for r in volume.restores())
    with cdp.open(tmp_path / "v", settings=cdp.Settings(max_restores=32)) as volume:
        volume.restore("#0")
        assert volume.pread(8192, 0) == bytes(8192)
        assert PENDING not in {lo for _, _, intervals in view(NOW, volume._store.lineage_records(), 2048)
                               for lo, _ in intervals}
