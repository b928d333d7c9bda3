"""The oldest history is given up: folded into the base, or dropped. Everything that can be opened stays what it was,
also where the power goes or calls fail at any point; what is given up is freed, all of it."""
from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support import comparing
from support.seeds import Seeds
from support.sizes import FREEING, SIZES
from support.world import World

from cdpcore.system.os import SimOs

pytestmark = pytest.mark.sanitize
KINDS = ["after", "before"]


def live(seed: int, kind: str, n: int) -> World:
    rnd = random.Random(seed)
    sim = SimOs(seed)
    world = World(seed, sim, "/v", replace(rnd.choice(SIZES), before=kind == "before"))
    world.create(with_base=rnd.random() < 0.5)
    for op in world.program(n, FREEING):
        world.run(op)
        if op[0] == "free" and rnd.random() < 0.3:
            comparing.finish_freeing(world)
            comparing.every_moment(world)
    world.run(("reopen", seed))
    comparing.finish_freeing(world)
    comparing.every_moment(world)
    world.run(("history", seed))
    world.close()
    world.forget()
    assert (sim.open_handles, sim.open_maps, sim.misuse) == (0, 0, 0)
    return world


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_every_moment_that_stays(seeds: Seeds, kind: str) -> None:
    moved = 0
    for seed in seeds(2):
        world = live(seed, kind, 260)
        assert world.root
        moved += world.root.start > 0
    assert seeds.done < 4 or moved >= 1
