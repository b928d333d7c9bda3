"""Moments of the middle of a history are given up, in rounds, while the oldest part is given up, too, and the power
goes at any call: what can be opened stays what it was, and what is not needed is freed in the end."""
from __future__ import annotations

from typing import Any

import pytest
from support.seeds import Seeds, notice
from support.simcatalog import simulated
from support.sizes import KIB, THINNING, tuning
from test_powercut import GIVING_UP, History

from cdp.moments.thinned import Thinned
from cdp.store import fold, thinned_file
from cdp.store.catalog import Segment
from cdp.store.fold import Fold
from cdp.store.store import Store
from cdp.store.unseen import unseen
from cdp.volume import retention
from cdp.volume.policy_keeper import PolicyKeeper
from cdp.volume.thinning import Thinner
from cdpcore.system.os import SimOs

pytestmark = pytest.mark.sanitize
ROUND: list[tuple[type, str]] = [(Thinner, "_punch"), (Thinner, "_done"), (Store, "thin")]
PLACES = {"_punch", "_done", "thin", "_note", "take_out", "_fold_on", "move_start", "_delete_files"}


class ThinnedHistory(History):
    """punched: bytes that were freed by thinning."""

    def __init__(self, seed: int):
        super().__init__(seed, "after")
        self.punched = self.rounds = self.inside = 0

    def run(self) -> None:
        with pytest.MonkeyPatch.context() as patch:     # a fold takes many steps
            patch.setattr(retention, "SLICE_BYTES", 4096)
            patch.setattr(fold, "STEPS", 2)
            self.live_through()

    def live_through(self) -> None:
        world = self.world
        world.create(self.random.random() < 0.5)
        for _ in range(4):
            self.live_on(THINNING, [*ROUND * 2, (Fold, "step"), *GIVING_UP])
            self.rounds += bool(world.root and world.root.thinned.kept)
        self.settle()
        self.check_freed(world.root.volume._store)
        self.end()

    def check_freed(self, store: Any) -> None:
        """Nothing is left to do, and what no moment shows reads as zeros."""
        self.punched += sum(store.punched.values())
        self.inside += store.timeline.start.seq not in (0, *(row.first_seq - 1 for row in store.timeline.rows()))
        thinned = store.thinned
        assert not thinned.todo
        moments = [seq for seq in thinned.kept if seq >= store.timeline.start.seq]
        if len(moments) < 2:
            return
        for row in store.catalog.rows(Segment):
            with store.os.open(store.files.segment(row.number)) as file:
                for offset, length in unseen(store, moments, row):
                    assert not any(file.pread(length, offset)), f"{length} bytes at {offset} of {row} are left"


@pytest.mark.soak
def test_histories_that_are_thinned(seeds: Seeds) -> None:
    cuts = punched = rounds = inside = 0
    places: set[str] = set()
    for seed in seeds(8):
        history = ThinnedHistory(seed)
        history.run()
        cuts, punched, rounds = cuts + history.cuts, punched + history.punched, rounds + history.rounds
        inside += history.inside
        places |= history.places & PLACES
    print(f"{seeds.done} histories, {cuts} power cuts, {punched} bytes freed in {rounds}, {inside} start inside a "
          f"segment; in the middle of {', '.join(sorted(places))}")
    assert seeds.done < 8 or punched and rounds
    assert seeds.done < 40 or inside and places >= {"_punch", "thin", "_done"}


def _list_later(patch: pytest.MonkeyPatch) -> None:
    """The list is durable only when all of it is freed."""
    def thin(store: Store, thinned: Thinned) -> None:
        if thinned.todo:
            store.thinned = thinned
        else:
            whole(store, thinned)

    whole = Store.thin
    patch.setattr(Store, "thin", thin)


def _no_pins(patch: pytest.MonkeyPatch) -> None:
    """What is open, and what images show, is not in the list."""
    patch.setattr(PolicyKeeper, "pins", lambda keeper, policy=None: [])


def _starts_at_an_end(patch: pytest.MonkeyPatch) -> None:
    """The history starts at the end of a segment, which was thinned."""
    patch.setattr(Thinned, "following", lambda thinned, seq: seq)


def _no_mapping(patch: pytest.MonkeyPatch) -> None:
    """The list does not count after the volume was opened again."""
    patch.setattr(thinned_file, "load", lambda os, files, geometry: Thinned())


BUGS = {"list later": _list_later, "no pins": _no_pins,
        "starts at an end": _starts_at_an_end, "no mapping": _no_mapping}


@pytest.mark.planted
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_thinning_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the histories above, which find nothing without it."""
    BUGS[bug](monkeypatch)
    notice(lambda seed: ThinnedHistory(seed).run(), 60)


def _under_a_fold() -> tuple[bool, bool, bool]:
    """Whether a round began while a fold of an older start went on, whether it did afterwards, and whether what can be
    opened then is right. The moment that the fold reads is none that the round keeps."""
    sim = SimOs(1)
    volume = simulated(sim, "after", 64 * KIB, tuning(80 * KIB, 640 * KIB))
    shown = {0: bytes(64 * KIB)}
    for seq in range(1, 61):
        volume.pwrite(bytes([seq]) * 4096, (seq * 7 % 16) * 4096)
        shown[seq] = volume.pread(64 * KIB, 0)
        if seq % 10 == 0:
            volume._store.core.set_aside()
            volume._store.maintainer.step()

    def thin(moments: list[int]) -> bool:
        planned = volume._thinner.plan(moments)
        began = planned is not None and volume._thinner.begin(planned[0])
        while volume._thinner.step() is not None:
            pass
        return began

    volume.free_before(20)
    while volume._retention._fold is None:
        volume._retention.step()
    volume.free_before(30)
    assert volume.window().oldest.seq == 30 and volume.freeing() is not None
    early = thin([30, 60])
    while volume._retention.step() is not None:
        pass
    late = thin([30, 60])
    right = True
    for seq in (30, 60):
        with volume.at(seq) as image:
            right = right and image.pread(64 * KIB, 0) == shown[seq]
    volume.close()
    return early, late, right


def test_a_round_waits_for_a_fold_of_an_older_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICE_BYTES", 4096)
    monkeypatch.setattr(fold, "STEPS", 2)
    assert _under_a_fold() == (False, True, True)
