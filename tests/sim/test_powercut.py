"""The power goes, or the process is killed, at any call: what comes back is a prefix in seq order that holds all that
was flushed.

Every history is drawn from its seed: a volume is made, used, and cut off at some OS call of some operation (creating,
sealing, merging, imaging, restoring, writing a restore back, recovering and all else), several times over.
"""
from __future__ import annotations

import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
from support import comparing
from support.node import Node
from support.seeds import Seeds, notice
from support.sizes import FREEING, SIZES, WEIGHTS
from support.world import World

from cdp.store import kinds, store
from cdp.store.fold import Fold
from cdp.store.maintenance import Maintainer
from cdp.store.store import Store
from cdp.volume.reclaimer import Reclaimer
from cdp.volume.retention import Retention
from cdp.volume.writeback import WriteBack
from cdpcore.base.errors import CdpError, NotFound
from cdpcore.index.versions import Versions
from cdpcore.inplace import old_content, settler
from cdpcore.inplace.before_images import BeforeImages
from cdpcore.log.log import Log
from cdpcore.log.writer import RULES
from cdpcore.system.os import SimOs

pytestmark = pytest.mark.sanitize

MODES = ["seeded"] * 6 + ["drop", "keep"] + ["killed"] * 3      # killed: the machine goes on
PLACES = {"_seal": "sealing", "merge_once": "merging", "write_back": "writing a restore back",
          "settle_disk": "settling the disk",
          "_finish": "ending a restore", "reclaim": "freeing", "recover": "recovering",
          "move_start": "moving the start", "_fold_on": "folding", "take_out": "taking segments out",
          "_delete_files": "deleting segments"}
INSIDE = [(Maintainer, "_seal"), (Maintainer, "merge_once"), (WriteBack, "_step"), (WriteBack, "_finish"),
          (Reclaimer, "reclaim")]
GIVING_UP: list[tuple[type, str]] = [(Fold, "step"), *((Retention, name) for name in (
    "free_before", "_take_out", "_delete_files"))]
# much that goes on for many calls
BUSY = {**WEIGHTS, "write": 90, "restore": 12, "destroy": 4, "undo": 6, "reopen": 8}


class History:
    def __init__(self, seed: int, kind: str = "after", usual: dict[str, int] = WEIGHTS):
        self.seed, self.usual = seed, usual
        self.random = random.Random(seed)
        self.sim = SimOs(seed)
        self.world = World(seed, self.sim, "/v", replace(self.random.choice(SIZES), before=kind == "before"))
        self.cuts = self.lost = self.recovery_cuts = 0
        self.places: set[str] = set()       # functions in the middle of which it ended

    def run(self) -> None:
        rnd, world = self.random, self.world
        with_base = rnd.random() < 0.3
        if rnd.random() < 0.15:
            self.sim.cut_at(rnd.randint(1, rnd.choice((10, 40))))
        self.live(lambda: world.create(with_base))
        for _ in range(rnd.choice((1, 1, 2, 3))):
            busy = rnd.random() < 0.4
            program = world.program(rnd.choice((5, 20, 40)), {**self.usual, **BUSY} if busy else self.usual)
            cut = rnd.randrange(len(program) + 1)

            def life(program=program, cut=cut) -> None:
                for i, op in enumerate(program[:cut + 1]):
                    if i == cut:
                        self.sim.cut_at(rnd.randint(1, rnd.choice((3, 12, 40))))
                    world.run(op)
                if rnd.random() < 0.3:
                    world.close()
                self.sim.cut_at(0)

            with self.cut_inside(*rnd.choice(INSIDE)) if busy else nullcontext():
                self.live(life)
        self.end()

    def end(self) -> None:
        self.world.close()
        self.world.forget()
        assert (self.sim.open_handles, self.sim.open_maps, self.sim.misuse) == (0, 0, 0)

    @contextmanager
    def cut_inside(self, owner: type, name: str) -> Iterator[None]:
        """What goes on beside the requests has few calls among many: the cut comes some calls after it has begun."""
        left, whole = self.random.randint(1, 1 if (owner, name) in GIVING_UP else 3), getattr(owner, name)
        call = self.random.randint(1, self.random.choice((3, 12)))

        def cut(it, *args, **how):
            nonlocal left
            if owner is not WriteBack or it._store.unwritten():
                left -= 1
                if left == 0:
                    self.sim.cut_at(call)
            return whole(it, *args, **how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, cut)
            yield

    def live(self, what) -> None:
        """Until the power goes; then recovery, which may be cut as well."""
        try:
            what()
            if self.sim.powered:
                self.sim.cut_at(None)
                return
        except CdpError as e:
            self.note(e)
        self.cuts += 1
        self.world.crash(self.random.choice(MODES))
        while True:
            if self.random.random() < 0.4:
                self.sim.cut_at(self.random.randint(1, self.random.choice((6, 30))))
            try:
                if self.world.root is None or not self.world.root.volume:
                    self.find()
                self.lost += self.world.recovered(self.random)
                if self.sim.powered:
                    self.sim.cut_at(None)
                    return
            except CdpError as e:
                self.note(e)
            self.recovery_cuts += 1
            self.world.crash(self.random.choice(MODES))

    def live_on(self, usual: dict[str, int], inside: list[tuple[type, str]]) -> None:
        """Some operations, which are cut off in the middle of one of these, if it comes to that."""
        rnd, world = self.random, self.world
        program = world.program(60, usual)

        def life() -> None:
            if world.root.volume is None:
                world.open_all()
            for op in program:
                world.run(op)
            if rnd.random() < 0.3:
                world.close()

        with self.cut_inside(*rnd.choice(inside)):
            self.live(life)

    def settle(self) -> None:
        """What can be given up is freed, and each moment compared."""
        if self.world.root and self.world.root.volume is None:
            self.world.open_all()
        comparing.finish_freeing(self.world)
        comparing.every_moment(self.world)

    def note(self, error: CdpError) -> None:
        """It is the power that went; where."""
        if self.sim.powered:
            raise error
        self.places.update(frame.f_code.co_name.rsplit(".", 1)[-1]
                           for frame, _ in traceback.walk_tb(error.__traceback__))

    def find(self) -> None:
        if self.world.root is None or not self.sim.exists("/v/lock"):
            # Cut while it was being made: it is there and whole, or it can be made.
            assert self.world.root is None or not self.world.root.model.rows
            try:
                self.world.root = Node("/v", self.world.empty())
                self.world.open_all()
            except NotFound:
                self.world.root = None
                self.world.create()
            return
        self.world.open_all()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["after", "before"])
def test_histories(seeds: Seeds, kind: str) -> None:
    """Every history recovers to a prefix with all that was flushed; images, bookmarks, restores that were acknowledged
    are there."""
    cuts = lost = again = 0
    places: set[str] = set()
    for seed in seeds(16):
        history = History(seed, kind)
        history.run()
        places |= history.places & set(PLACES)
        cuts, lost, again = cuts + history.cuts, lost + history.lost, again + history.recovery_cuts
    print(f"{seeds.done} histories, {cuts} power cuts, {again} more during recovery, {lost} unflushed records lost; "
          f"in the middle of {', '.join(sorted(PLACES[p] for p in places))}")
    hit = {"_seal"} if kind == "after" else {"_seal", "_finish", "settle_disk"}
    # the cuts did hit something
    assert seeds.done < 50 or (cuts > seeds.done // 2 and again and lost and places >= hit)


class GivenUp(History):
    """The oldest history is given up, and the power goes in the middle of that."""

    def run(self) -> None:
        rnd, world = self.random, self.world
        world.create(rnd.random() < 0.5)
        for _ in range(3):
            self.live_on(FREEING, [(Fold, "step")] * (not world.size.before) * 2 + GIVING_UP)
        self.settle()
        self.end()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["after", "before"])
def test_histories_that_are_given_up(seeds: Seeds, kind: str) -> None:
    """The same while the oldest history is given up: nothing that can be opened changes, and all that was given up is
    freed in the end."""
    cuts = moved = 0
    places: set[str] = set()
    for seed in seeds(4):
        history = GivenUp(seed, kind)
        history.run()
        assert history.world.root
        moved += history.world.root.start > 0
        places |= history.places & set(PLACES)
        cuts += history.cuts
    print(f"{seeds.done} histories, {moved} of which start later, {cuts} power cuts; in the middle of "
          f"{', '.join(sorted(PLACES[p] for p in places))}")
    hit = {"_delete_files", "take_out", *(["_fold_on"] if kind == "after" else [])}
    assert seeds.done < 20 or (moved > 10 and places >= hit)


def _no_sync(patch: pytest.MonkeyPatch) -> None:
    """Segments go before the base is synced."""
    def step(fold: Fold, most_bytes: int) -> bool:
        file, fold._file = fold._file, _Unsynced(fold._file)
        try:
            return whole(fold, most_bytes)
        finally:
            fold._file = file

    whole = Fold.step
    patch.setattr(Fold, "step", step)


class _Unsynced:
    def __init__(self, file: Any):
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return (lambda: None) if name == "datasync" else getattr(self._file, name)


def _start_later(patch: pytest.MonkeyPatch) -> None:
    """volume.json says where the history starts only when the segments are gone."""
    def describe(store: Store, **changes: Any) -> None:
        if "start_seq" in changes:
            store.geometry = replace(store.geometry, **changes)
        else:
            whole(store, **changes)

    def delete(retention: Retention) -> None:
        delete_files(retention)
        whole(retention._store)

    whole, delete_files = Store._describe, Retention._delete_files
    patch.setattr(Store, "_describe", describe)
    patch.setattr(Retention, "_delete_files", delete)


def _no_trims(patch: pytest.MonkeyPatch) -> None:
    """Zeroes and trims are not folded."""
    def put(fold: Fold, a: int, b: int, data: bool) -> None:
        if data:
            whole(fold, a, b, data)

    whole = Fold._put
    patch.setattr(Fold, "_put", put)


def _no_holds(patch: pytest.MonkeyPatch) -> None:
    """What is open, or shown by a restore, is not looked at."""
    patch.setattr(Retention, "holds", lambda retention, undo=True: [])


def _no_floor(patch: pytest.MonkeyPatch) -> None:
    """Runs that reach across the start go on showing what the base has by now."""
    def floorless(*args: Any) -> Versions:
        return Versions(*args[:5])

    patch.setattr(store, "Versions", floorless)


BUGS = {"no sync": ("after", _no_sync), "start later": ("before", _start_later), "no trims": ("after", _no_trims),
        "no holds": ("after", _no_holds), "no holds, before-images": ("before", _no_holds),
        "no floor": ("after", _no_floor)}


@pytest.mark.planted
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_giving_up_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the histories above, which find nothing without it."""
    kind, plant = BUGS[bug]
    plant(monkeypatch)
    notice(lambda seed: GivenUp(seed, kind).run(), 60)


@pytest.mark.planted
@pytest.mark.parametrize("kind", ["after", "before"])
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_noticed(rule: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of the log's writer, each broken in turn, where the histories above find nothing."""
    def broken(*args, **how) -> Log:
        log = Log(*args, **how)
        log.writer.break_rule(rule)
        return log

    monkeypatch.setattr(store, "Log", broken)
    notice(lambda seed: History(seed, kind).run(), 100)


@pytest.mark.planted
@pytest.mark.parametrize("rule", [*settler.RULES, *old_content.RULES])
def test_a_broken_rule_of_the_disk_is_noticed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to a protected disk, and when, and what is kept of it; by the same histories."""
    def broken(*args, **how) -> BeforeImages:
        content = BeforeImages(*args, **how)
        (content.settler if rule in settler.RULES else content.old).break_rule(rule)
        return content

    monkeypatch.setattr(kinds, "BeforeContent", broken)
    notice(lambda seed: History(seed, "before").run(), 100)
