"""A policy with tiers, on a simulated machine: each point that it promises can be opened and is right, what lies
between two of them means the one before and takes no space, and pins, bookmarks and restores keep what they need."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.machine import NS, Machine

from cdp.service.local import VolumeService
from cdpcore.base.errors import RefusedPoint

BLOCK, BLOCKS = 4096, 4
POLICY = 'keep = ["all for 30s", "10s for 5m", "1m for 1h"]'


class Tiers:
    """A block a second, at a place that repeats; shown: what the volume showed after each record."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine = Machine(monkeypatch)
        self.shown = {0: bytes(BLOCK * BLOCKS)}
        self.made: dict[int, int] = {}      # when, by the seq

    @property
    def volume(self):
        return self.machine.volume

    def write(self, seconds: int) -> None:
        for _ in range(seconds):
            self.machine.go(NS)
            self.machine.keeper.upkeep()
            seq = self.volume.window().newest.seq + 1
            self.volume.pwrite(seq.to_bytes(4, "little") * (BLOCK // 4), seq % BLOCKS * BLOCK, fua=True)
            self.shown[seq], self.made[seq] = self.volume.pread(BLOCK * BLOCKS, 0), self.machine.wall_ns
            if seq % 8 == 0:
                self.seal()

    def seal(self) -> None:
        self.volume._store.core.set_aside()
        self.volume._store.step()

    def settle(self) -> None:
        while self.volume._thinner.step() is not None or self.volume._retention.step() is not None:
            pass

    def note(self) -> None:
        """Records were made that nobody wrote."""
        seq = self.volume.window().newest.seq
        self.shown[seq] = self.volume.pread(BLOCK * BLOCKS, 0)
        self.made[seq] = self.machine.wall_ns

    def openable(self) -> set[int]:
        return set(self._openable())

    def _openable(self) -> Iterator[int]:
        for seq in sorted(self.shown):
            try:
                with self.volume.at(f"#{seq}!") as image:
                    assert image.moment.seq == seq and image.pread(BLOCK * BLOCKS, 0) == self.shown[seq], seq
                    yield seq
            except RefusedPoint:
                pass

    def promised(self) -> set[int]:
        """By the rules: of each slot the last record, until the next one that is kept is older than the tier."""
        now, seqs, found = self.machine.wall_ns, sorted(self.made), set[int]()
        for interval, span in ((1, 30), (10, 300), (60, 3600)):
            points = [seq for seq in seqs if interval == 1 or seq == seqs[-1]
                      or self.made[seq] // (interval * NS) != self.made[seq + 1] // (interval * NS)]
            found |= {a for a, b in zip(points, [*points[1:], None], strict=True)
                      if b is None or now - self.made[b] < span * NS}
        return found


@pytest.fixture
def tiers(monkeypatch: pytest.MonkeyPatch) -> Tiers:
    return Tiers(monkeypatch)


def test_what_is_promised_is_there_and_right_all_the_time(tiers: Tiers) -> None:
    tiers.volume.set_policy(POLICY)
    for round_ in range(4):
        tiers.write(47)
        openable = tiers.openable()
        assert openable >= tiers.promised(), round_
        if round_ == 2:
            tiers.settle()
            tiers.machine.reopen()
            assert tiers.openable() == openable
    tiers.volume.prune()
    tiers.settle()
    openable, store = tiers.openable(), tiers.volume._store
    assert openable >= tiers.promised() and len(openable) < 80 and store.geometry.format == 7
    rows = store.timeline.rows()
    shown = {seq for seq in range(1, 189) if any(tiers.shown[kept][seq % BLOCKS * BLOCK:][:4] ==
                                                 seq.to_bytes(4, "little") for kept in openable)}
    gone = sum(store.punched.values()) // BLOCK
    assert gone > 60 and gone == len([seq for seq in range(rows[0].first_seq, store.thinned.upto + 1)
                                       if seq not in shown and seq > tiers.machine.oldest()])
    for seq in range(tiers.machine.oldest(), 189):
        kept = max(one for one in openable if one <= seq)
        found = tiers.volume.explain(f"#{seq}")
        assert found.resolved.seq == kept and (found.not_kept is None) == (kept == seq)
        assert tiers.volume.resolve(tiers.volume._store.timeline.moment(seq).seq).seq == kept


def test_a_round_says_when_it_begins_and_when_it_is_done(tiers: Tiers) -> None:
    tiers.volume.set_policy(POLICY)
    tiers.write(47)
    tiers.settle()
    with tiers.volume.watch(kinds=["maintenance_began", "maintenance_ended"]) as watch:
        tiers.write(94)
        tiers.volume.prune()
        tiers.settle()
        found = list(iter(lambda: watch.get(0), None))
    assert [event.kind for event in found] == ["maintenance_began", "maintenance_ended"] * (len(found) // 2) and found
    assert {event.details["work"] for event in found} == {"thinning"}
    assert found[-1].details["seq"] == tiers.volume._store.thinned.upto


def test_the_history_starts_at_a_kept_moment(tiers: Tiers) -> None:
    tiers.volume.set_policy('keep = ["all for 20s", "10s for 100s"]')
    started = set()
    for _ in range(7):
        tiers.write(29)
        tiers.settle()
        started.add(tiers.machine.oldest())
        assert tiers.machine.oldest() == min(tiers.openable())
        tiers.machine.reopen()
    assert len(started) > 2 and any(seq % 8 for seq in started)       # a segment has eight records


def test_pins_bookmarks_and_restores_keep_what_they_need(tiers: Tiers) -> None:
    volume = tiers.volume
    volume.set_policy(POLICY)
    tiers.write(33)
    volume.bookmark("here", at="#13")
    tiers.note()
    volume.create_image("copy", at="#17")
    held = volume.at("#22")
    tiers.write(10)
    volume.restore("#25")
    tiers.note()
    volume.undo()
    tiers.note()
    restored, undone = (one.seq for one in volume.restores())
    tiers.write(80)
    tiers.machine.volume.prune()
    tiers.settle()
    needed = {13, 17, 22, 25, restored - 1, undone - 1}
    assert tiers.openable() >= needed and not tiers.openable() & {11, 12, 14, 16, 23}
    assert held.pread(BLOCK * BLOCKS, 0) == tiers.shown[22]
    with volume.open_image("copy") as image:
        assert image.pread(BLOCK * BLOCKS, 0) == tiers.shown[17]
    held.close()
    volume.delete_bookmark("here")
    tiers.note()
    tiers.write(60)
    volume.prune()
    tiers.settle()
    assert not tiers.openable() & {13, 22} and 17 in tiers.openable()


def test_what_prune_says_is_what_it_does(tiers: Tiers) -> None:
    tiers.write(150)
    tiers.seal()
    service = VolumeService(tiers.volume)
    with pytest.raises(RefusedPoint, match=r"would give up .* of history: everything before #8, .* about .* that only"):
        service.set_policy(POLICY)
    before = len(tiers.openable())
    plan = service.simulate(POLICY)
    service.set_policy(POLICY, yes=True)
    total = plan["history_bytes"]
    dry = service.prune(dry_run=True)
    assert dry["moments_thinned"] > 80 and len(tiers.openable()) == before
    done = service.prune()
    tiers.settle()
    assert done["start"]["seq"] == 8
    assert done["moments_thinned"] == dry["moments_thinned"] == before - 8 - len(tiers.openable())
    gone = done["freed_bytes"] + sum(tiers.volume._store.punched.values())
    index = sum(run.file_bytes for run in tiers.volume._store.maintainer.runs)
    assert abs(service.simulate(POLICY)["history_bytes"] - (total - gone)) <= index
    assert sum(tiers.volume._store.punched.values()) == plan["thinned_bytes"]
    assert service.prune()["moments_thinned"] == 0
    window = service.window()["thinned"]
    assert window is not None and window["points"] < 20 and window["first"]["seq"] == 8


def test_explain_names_the_tier(tiers: Tiers) -> None:
    tiers.volume.set_policy(POLICY)
    tiers.write(120)
    tiers.volume.prune()
    kept = sorted(tiers.openable())[3]
    rules = VolumeService(tiers.volume).explain(f"#{kept}")["kept_by"]
    assert rules and {*rules} <= {"'10s for 5m'", "'1m for 1h'"}
