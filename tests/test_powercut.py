"""The power goes at any call: what comes back is a prefix in seq order that holds all that was flushed.

Every history is drawn from its seed: a volume is made, used, and cut off at some OS call of some operation (creating,
sealing, merging, imaging, restoring, recovering and all else), several times over. Replay one: CDP_SEED=seed; run more:
CDP_HISTORIES=10000.
"""
from __future__ import annotations

import gc
import os
import random
from dataclasses import replace

import pytest
from world import SIZES, Node, World

from cdpcore.errors import CdpError, NotFound
from cdpcore.osapi import SimOs

HISTORIES = int(os.environ.get("CDP_HISTORIES", "800"))
MODES = ["seeded"] * 6 + ["drop", "keep"]


class History:
    def __init__(self, seed: int, kind: str = "after"):
        self.seed = seed
        self.random = random.Random(seed)
        self.sim = SimOs(seed)
        self.world = World(seed, self.sim, "/v", replace(self.random.choice(SIZES), before=kind == "before"))
        self.cuts = self.lost = self.recovery_cuts = 0
        self.killed = False     # the process ended, and the machine did not

    def run(self) -> None:
        rnd, world = self.random, self.world
        with_base = rnd.random() < 0.3
        if rnd.random() < 0.15:
            self.sim.cut_at(rnd.randint(1, rnd.choice((10, 40))))
        self.live(lambda: world.create(with_base))
        for _ in range(rnd.choice((1, 1, 2, 3))):
            program = world.program(rnd.choice((5, 20, 40)))
            cut = rnd.randrange(len(program) + 1)

            def life(program=program, cut=cut) -> None:
                for i, op in enumerate(program[:cut + 1]):
                    if i == cut:
                        self.sim.cut_at(rnd.randint(1, rnd.choice((3, 12, 40))))
                    world.run(op)
                if rnd.random() < 0.3:
                    world.close()
                self.sim.cut_at(None)
                self.killed = rnd.random() < 0.3
                if not self.killed:
                    self.sim.cut_at(0)

            self.live(life)
        world.close()
        world.forget()
        assert (self.sim.open_handles, self.sim.open_maps, self.sim.misuse) == (0, 0, 0)

    def live(self, what) -> None:
        """Until the power goes; then recovery, which may be cut as well."""
        try:
            what()
            if self.sim.powered and not self.killed:
                self.sim.cut_at(None)
                return
        except CdpError:
            if self.sim.powered:
                raise
        if self.sim.powered:
            self.world.forget()
        else:
            self.cuts += 1
            self.world.crash(self.random.choice(MODES))
        self.killed = False
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
            except CdpError:
                if self.sim.powered:
                    raise
            self.recovery_cuts += 1
            self.world.crash(self.random.choice(MODES))

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


def seeds() -> list[range]:
    if "CDP_SEED" in os.environ:
        seed = int(os.environ["CDP_SEED"])
        return [range(seed, seed + 1)]
    step = max(1, HISTORIES // 10)
    return [range(at, min(at + step, HISTORIES)) for at in range(0, HISTORIES, step)]


@pytest.mark.parametrize("kind", ["after", "before"])
@pytest.mark.parametrize("which", seeds(), ids=lambda r: f"{r.start}-{r.stop - 1}")
@pytest.mark.timeout(3600)
def test_histories(which: range, kind: str) -> None:
    """Every history recovers to a prefix with all that was flushed; images, bookmarks, restores that were acknowledged are there."""
    gc.collect()
    gc.freeze()     # a crash collects what was left behind: only that, and not all of the test run
    cuts = lost = again = 0
    try:
        for seed in which:
            history = History(seed, kind)
            try:
                history.run()
            except BaseException as e:
                e.add_note(f"replay: CDP_SEED={seed}")
                raise
            cuts, lost, again = cuts + history.cuts, lost + history.lost, again + history.recovery_cuts
    finally:
        gc.unfreeze()
    print(f"{len(which)} histories, {cuts} power cuts, {again} more during recovery, {lost} unflushed records lost")
    assert len(which) < 50 or (cuts > len(which) // 2 and again and lost)       # the cuts did hit something
