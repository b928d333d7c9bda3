"""What was done to a volume against brute force: the model's bytes and records say what was written, and over what; for
volumes of both kinds and their images, with restores, histories that lost their oldest end, and clocks set back."""
from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.model import Model
from support.node import Node
from support.seeds import Seeds
from support.sizes import FREEING, SIZES, WEIGHTS, WRONG_CLOCK
from support.world import World

from cdp.moments.records import FLUSH, TRIM, WRITE, ZERO
from cdpcore.system.os import SimOs

pytestmark = [pytest.mark.plain, pytest.mark.soak]
OPERATIONS, LOOK_EVERY = 120, 40
LONG_NS = 365 * 86400 * 10**9
NAMES = {WRITE: ("writes", "written"), ZERO: ("zeroes", "zeroed"), TRIM: ("trims", "trimmed"),
         FLUSH: ("flushes", "flushes")}


def check(world: World, node: Node) -> bool:
    volume, model = world.open_node(node), node.model
    found, want = volume.activity(by_ns=LONG_NS).intervals, dict.fromkeys(
        ("writes", "zeroes", "trims", "flushes", "written", "zeroed", "trimmed"), 0)
    over, known = 0, not any(row.destructive for row in volume._store.restores)
    for seq, _, kind, _, offset, length in volume.records().tolist():
        if kind in NAMES:
            count, size = NAMES[kind]
            want[count] += 1
            if size != count:
                want[size] += length
        if kind == WRITE and known:
            over += held(model, seq, offset, length)
    assert {name: int(found[name].sum()) for name in want} == want
    # What a destructive restore freed is not known any more; of before-images a part counts as a whole.
    if known and not world.size.before and not world.root.start and b"b" not in model.at(0)[1]:
        assert int(found["overwritten"].sum()) == over
    assert found["overwritten"].sum() <= found["written"].sum()
    return known


def held(model: Model, seq: int, offset: int, length: int) -> int:
    """How many bytes of the range held data before that record."""
    letters = model.at(seq - 1)[1][offset // 512:(offset + length) // 512]
    return letters.count(b"d") * 512


@pytest.mark.parametrize(("kind", "weights"), [("after", WEIGHTS), ("before", WEIGHTS), ("after", FREEING),
                                               ("after", WRONG_CLOCK)], ids=["after", "before", "freeing", "clock"])
def test_activity_against_brute_force(seeds: Seeds, kind: str, weights: dict[str, int]):
    checked = 0
    for seed in seeds(1):
        rnd = random.Random(seed)
        sim = SimOs(seed)
        world = World(seed, sim, "/v", replace(rnd.choice(SIZES), before=kind == "before"))
        world.create(with_base=rnd.random() < 0.3)
        for i, op in enumerate(world.program(OPERATIONS, weights)):
            world.run(op)
            if i % LOOK_EVERY == LOOK_EVERY - 1:
                for node in world.root.family()[:2]:
                    check(world, node)
                    checked += 1
        world.close()
        world.forget()
        assert (sim.open_handles, sim.open_maps, sim.misuse) == (0, 0, 0)
    assert checked >= 3 * seeds.done
