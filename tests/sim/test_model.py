"""The engine against the model of support/model.py: random operations on a volume, its images and images of images,
compared byte for byte at random points, by seq, time and bookmark, in extents and in history.

Histories of 500 operations, each on its own simulated machine; then shorter ones on the real one, with threads. A
failing program is made small before it is shown.
"""
from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from support.seeds import Seeds
from support.sizes import KIB, SIZES, Size, tuning
from support.world import Op, World, shrink

from cdp.store.catalog import lmdb_catalog
from cdpcore.system.os import SimOs, posix

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

HISTORY = 500
KINDS = ["after", "before"]
REAL = Size(256 * KIB, tuning(128 * KIB, 1024 * KIB, slots=4, threads=True), 1)


def live(seed: int, kind: str, program: list[Op] | None = None) -> World:
    """One history on a simulated machine, to its end, then reopened and compared once more."""
    rnd = random.Random(seed)
    sim = SimOs(seed)
    world = World(seed, sim, "/v", replace(rnd.choice(SIZES), before=kind == "before"))
    world.create(with_base=rnd.random() < 0.3)
    for op in program if program is not None else world.program(HISTORY):
        world.run(op)
    world.run(("reopen", seed))
    world.run(("look", seed))
    world.close()
    world.forget()
    assert (sim.open_handles, sim.open_maps, sim.misuse) == (0, 0, 0)
    return world


def fails(seed: int, kind: str, program: list[Op]) -> bool:
    try:
        live(seed, kind, program)
    except Exception:       # noqa: BLE001  (whatever it is, the program fails)
        return True
    return False


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_operations_agree_with_the_model(seeds: Seeds, kind: str):
    done: dict[str, int] = {}
    for seed in seeds(2):
        try:
            world = live(seed, kind)
        except Exception:
            program = World(seed, SimOs(seed), "/v", SIZES[0]).program(HISTORY)
            print(f"smallest failing program: {shrink(program, lambda p: fails(seed, kind, p), 60)}")  # noqa: B023
            raise
        for name, n in world.done.items():
            done[name] = done.get(name, 0) + n
    print(f"{kind}-images: {sum(done.values())} operations")
    assert sum(done.values()) >= seeds.done * HISTORY
    assert seeds.done < 4 or min(done.values()) > 0, done


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_operations_on_the_real_machine(tmp_path: Path, seeds: Seeds, kind: str):
    for seed in seeds(1):
        world = World(seed, posix(), str(tmp_path / f"v{seed}"), replace(REAL, before=kind == "before"),
                      catalog=lmdb_catalog)
        world.create(with_base=seed % 3 == 1)
        try:
            for op in world.program(250):
                world.run(op)
            world.run(("reopen", seed))
            world.run(("look", seed))
        finally:
            world.close()
        assert sum(world.done.values()) == 252
