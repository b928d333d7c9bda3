"""Calls that fail, a full disk, and damage on the medium: errors are clear, nothing acknowledged is lost, reads never lie silently
about what was flushed, and nothing leaks. On the simulated disk, seeded: CDP_SEED=seed replays one history."""
from __future__ import annotations

import errno
import gc
import os
import random
from collections.abc import Callable

import pytest
from cdp.volume import Volume
from cdpcore.errors import CdpError, Closed, Corruption, NotFound, OutOfSpace, Unavailable
from cdpcore.osapi import SimOs
from simcatalog import on
from world import KIB, SIZES, World, refused, tuning, Size

HISTORIES = int(os.environ.get("CDP_HISTORIES", "1500")) // 2
CALLS = ("pwrite", "pwrite", "pwrite", "datasync", "datasync", "allocate", "create", "sync_dir", "rename", "unlink", "truncate", "punch",
         "open", "pread", "map", "size", "mkdir", "list_dir", "pages", "any")
EVENTS = ("bookmark", "unbookmark", "restore", "destroy", "undo")
PARTS = (None, None, "/log/", "/log/", "/runs/", "catalog", "/images/")


def succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except (CdpError, MemoryError) as e:
        assert str(e) or isinstance(e, MemoryError)
        return False
    return True


class Faults:
    """A volume in use while calls fail; after each failure it goes on, is opened again, or loses power."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.sim = SimOs(seed)
        self.world = World(seed, self.sim, "/v", self.random.choice(SIZES))
        self.failures = self.sticky = 0

    def run(self) -> None:
        rnd, world, sim = self.random, self.world, self.sim
        world.create(rnd.random() < 0.3)
        left = 3
        for op in world.program(60):
            if left and rnd.random() < 0.08:
                left -= 1
                self.arm()
            if not succeeds(lambda: world.run(op)):     # (its traceback would keep handles open)
                self.failures += 1
                self.after_failure(op[0])
        sim.clear_faults()
        self.end()

    def arm(self) -> None:
        rnd = self.random
        self.sim.fail(rnd.choice(CALLS), part=rnd.choice(PARTS), n=rnd.randint(1, rnd.choice((2, 10))), times=rnd.choice((1, 1, 2, 6)),
                      error=rnd.choice((errno.EIO, errno.EIO, errno.ENOSPC)))

    def after_failure(self, name: str) -> None:
        """What was refused is not there, what is there is right. A bookmark or restore that failed may be in the log or not: both are
        right, and it is known after the next opening."""
        rnd, world = self.random, self.world
        if rnd.random() < 0.7:
            self.sim.clear_faults()
        sticky = False
        for node in world.root.family():
            if node.volume is None or node.volume.closed:
                continue
            seq = node.volume._core.position()[0]
            assert seq <= len(node.model.rows)
            node.model.cut(seq, durable=False)
            sticky |= node.volume._core.stats()["failed_errno"] != 0
            got = bytearray(world.size.volume)
            if succeeds(lambda: node.volume.pread_into(got, 0)):    # the fault may hit this read: an error, not other bytes
                assert got == node.model.now
        self.sticky += sticky
        if world.pending or world.root.volume is None or name in EVENTS or sticky or rnd.random() < 0.3:
            self.sim.clear_faults()
            self.again(power=sticky or rnd.random() < 0.5)

    def again(self, power: bool) -> None:
        """Close, in whatever state it is, and open again. After a failed sync the power is cycled: what the page cache still shows may not
        be on the medium, and no program can tell."""
        rnd, world = self.random, self.world
        if rnd.random() < 0.7:
            succeeds(world.close)
        if power:
            world.crash(rnd.choice(["seeded", "drop", "keep"]))
        else:
            world.forget()
            assert (self.sim.open_handles, self.sim.open_maps, self.sim.misuse) == (0, 0, 0)
        world.open_all()
        world.recovered(rnd)

    def end(self) -> None:
        world = self.world
        if world.pending or any(n.volume is not None and n.volume._core.stats()["failed_errno"] for n in world.root.family()):
            self.again(power=True)
        world.close()
        world.forget()
        assert (self.sim.open_handles, self.sim.open_maps, self.sim.misuse) == (0, 0, 0)
        world.open_all()
        world.recovered(self.random)
        world.close()


@pytest.mark.timeout(3600)
def test_failing_calls() -> None:
    """Any call fails at any time with EIO or ENOSPC, once or often: a clear error, and after it the model's content and history."""
    gc.collect()
    gc.freeze()
    failures = sticky = 0
    seeds = [int(os.environ["CDP_SEED"])] if "CDP_SEED" in os.environ else range(HISTORIES)
    try:
        for seed in seeds:
            faults = Faults(seed)
            try:
                faults.run()
            except BaseException as e:
                e.add_note(f"replay: CDP_SEED={seed}")
                raise
            failures, sticky = failures + faults.failures, sticky + faults.sticky
    finally:
        gc.unfreeze()
    print(f"{len(seeds)} histories, {failures} failed operations, {sticky} times the log gave up")
    assert len(seeds) < 50 or (failures > len(seeds) // 4 and sticky)
