"""Calls that fail, a full disk, and damage on the medium: errors are clear, nothing acknowledged is lost, reads never
lie silently about what was flushed, and nothing leaks. On the simulated disk, seeded. Both kinds of volumes: of
before-images, calls on the disk in place fail as well."""
from __future__ import annotations

import errno
import random
import struct
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from support import comparing
from support.seeds import Seeds
from support.simcatalog import on
from support.sizes import FREEING, KIB, SIZES, WEIGHTS, Size, tuning
from support.world import World

from cdp.store import timeline
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError, Corruption, OutOfSpace
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import SimOs

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

KINDS = ["after", "before"]
CALLS = ("pwrite", "pwrite", "pwrite", "datasync", "datasync", "allocate", "create", "sync_dir", "rename", "unlink",
         "truncate", "punch", "open", "pread", "map", "size", "mkdir", "list_dir", "pages", "any")
UNSURE = ("bookmark", "unbookmark", "restore", "destroy", "undo", "shut", "reopen")
PARTS = (None, None, "/log/", "/log/", "/runs/", "catalog", "/images/")
DISK_PARTS = ("/v.img", "/v.img", "disk.state", "disk.json", "disk.sums")


def succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except (CdpError, MemoryError) as e:
        assert str(e) or isinstance(e, MemoryError)
        return False
    return True


class Faults:
    """A volume in use while calls fail; after each failure it goes on, is opened again, or loses power."""

    def __init__(self, seed: int, kind: str, weights: dict[str, int] = WEIGHTS):
        self.random, self.weights = random.Random(seed), weights
        self.sim = SimOs(seed)
        self.world = World(seed, self.sim, "/v", replace(self.random.choice(SIZES), before=kind == "before"))
        self.parts = PARTS + (DISK_PARTS if kind == "before" else ())
        self.failures = self.sticky = 0

    def run(self) -> None:
        rnd, world, sim = self.random, self.world, self.sim
        world.create(rnd.random() < 0.3)
        left = 3
        for op in world.program(60, self.weights):
            if left and rnd.random() < (0.6 if op[0] == "free" else 0.08):
                left -= 1
                self.arm()
            if not succeeds(lambda: world.run(op)):     # noqa: B023  (its traceback would keep handles open)
                self.failures += 1
                self.after_failure(op[0])
        sim.clear_faults()
        self.end()

    def arm(self) -> None:
        rnd = self.random
        self.sim.fail(rnd.choice(CALLS), part=rnd.choice(self.parts), n=rnd.randint(1, rnd.choice((2, 10))),
                      times=rnd.choice((1, 1, 2, 6)), error=rnd.choice((errno.EIO, errno.EIO, errno.ENOSPC)))

    def after_failure(self, name: str) -> None:
        """What was refused is not there, what is there is right. What failed half-way may be in the log or not: both
        are right, and it is known after the next opening."""
        rnd, world = self.random, self.world
        if rnd.random() < 0.7:
            self.sim.clear_faults()
        sticky = False
        if name == "free":
            world.find_start(world.root)
        for node in world.root.family():
            if node.volume is None or node.volume.closed:
                continue
            durable = node.model.durable
            # what is written back may have gone on before it failed
            while not succeeds(lambda node=node: world.catch_up(node)):
                pass
            node.model.durable = durable
            seq = node.volume._core.position()[0]
            assert seq <= len(node.model.rows)
            node.model.cut(seq, durable=False)
            sticky |= node.volume._core.stats()["failed_errno"] != 0
            got = bytearray(world.size.volume)
            # the fault may hit this read: an error, not other bytes
            if succeeds(lambda: node.volume.pread_into(got, 0)):    # noqa: B023
                assert got == node.model.now
        self.sticky += sticky
        if world.pending or world.root.volume is None or name in UNSURE or sticky or rnd.random() < 0.3:
            self.sim.clear_faults()
            self.again(power=rnd.random() < 0.5)

    def again(self, power: bool) -> None:
        """Close, in whatever state it is, and open again. After a failed sync the page cache shows what is not on the
        medium, and the next sync has nothing to do: what was recovered from it must outlive a power cut all the
        same."""
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
        if not power and rnd.random() < 0.5:
            world.crash("drop")
            world.open_all()
            world.recovered(rnd)

    def end(self) -> None:
        world = self.world
        if world.pending or any(n.volume is not None and n.volume._core.stats()["failed_errno"]
                                for n in world.root.family()):
            self.again(power=True)
        world.close()
        world.forget()
        assert (self.sim.open_handles, self.sim.open_maps, self.sim.misuse) == (0, 0, 0)
        world.open_all()
        world.recovered(self.random)
        if self.weights is FREEING:
            comparing.finish_freeing(world)
            comparing.every_moment(world)
        world.close()


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_failing_calls(seeds: Seeds, kind: str) -> None:
    """Any call fails at any time with EIO or ENOSPC, once or often: a clear error, and after it the model's content and
    history."""
    failures = sticky = 0
    for seed in seeds(10):
        faults = Faults(seed, kind)
        faults.run()
        failures, sticky = failures + faults.failures, sticky + faults.sticky
    print(f"{seeds.done} histories, {failures} failed operations, {sticky} times the log gave up")
    assert seeds.done < 50 or (failures > seeds.done // 4 and sticky)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_failing_calls_while_history_is_given_up(seeds: Seeds, kind: str) -> None:
    """The same. What had begun goes on when calls succeed again, and all is freed in the end."""
    failures = moved = 0
    for seed in seeds(4):
        faults = Faults(seed, kind, FREEING)
        faults.run()
        assert faults.world.root
        failures, moved = failures + faults.failures, moved + (faults.world.root.start > 0)
    print(f"{seeds.done} histories, {moved} of which start later, {failures} failed operations")
    assert seeds.done < 20 or (failures > 5 and moved > 5)


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [False, True], ids=["inline", "threads"])
def test_full_disk(threads: bool, kind: str) -> None:
    """A disk that fills up: writes are refused with OutOfSpace, all that was acknowledged can be read, and flushed, and
    is there after opening again; with space again, writing goes on by itself."""
    sim = SimOs(7)
    small = tuning(128 * KIB, 1024 * KIB, slots=4, threads=threads)
    world = World(7, sim, "/v", Size(2048 * KIB, small, 1, kind == "before"))
    world.create()
    volume, model = world.root.volume, world.root.model
    for offset in range(0, world.size.volume, 64 * KIB):    # no hole of the protected disk needs space later
        volume.pwrite(b"full" * (16 * KIB), offset)
        model.write(offset, b"full" * (16 * KIB))
        if not threads:
            volume._store.maintainer.step()
    volume.flush()
    model.flush()
    sim.set_space(sim.space_used_bytes + (6 << 20))
    rnd = random.Random(7)

    def write() -> bool:
        offset = rnd.randrange(world.size.volume // 4096 - 8) * 4096
        data = rnd.randbytes(32 * KIB)
        before = volume._core.position()[0]
        done = succeeds_but(OutOfSpace, lambda: volume.pwrite(data, offset))
        if volume._core.position()[0] > before:     # without threads it may be the sealing after the write that failed
            model.write(offset, data)
        return done

    written = refusals = 0
    while refusals < 20:        # the open segment may still have room after the first
        if write():
            written, refusals = written + 1, 0
        else:
            refusals += 1
        assert written < 1000
    assert written > 50
    assert volume.pread(world.size.volume, 0) == bytes(model.now)
    with volume.at(written // 2) as image:
        assert image.pread(world.size.volume, 0) == model.at(written // 2)[0]
    succeeds_but(OutOfSpace, volume.flush)          # its record may need a segment, too
    sim.set_space(64 << 20)
    if threads:
        for _ in range(2000):                       # maintenance tries again twice a second
            if write():
                break
            time.sleep(0.01)
    else:
        volume._store.maintainer.step()
    assert all(write() for _ in range(100))
    volume.flush()
    rows = volume._core.position()[0]
    assert volume.pread(world.size.volume, 0) == bytes(model.now)
    volume.close()
    again = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))
    assert again._core.position()[0] == rows
    assert again.pread(world.size.volume, 0) == bytes(model.now)
    again.close()
    assert sim.misuse == 0


def succeeds_but(kind: type[CdpError], call: Callable[[], object]) -> bool:
    try:
        call()
    except kind as e:
        assert str(e)
        return False
    return True


# --- damage ----------------------------------------------------------------------------------------------------------

FRAME = struct.Struct("<QQQQQ")     # magic, salt, first_seq, durable_seq, flush_seq


def claims(sim: SimOs, path: str) -> tuple[list[int], int]:
    """Where the frames of an open segment are, and the highest seq that one of them says was durable."""
    number = int(path[-14:-4])
    segment = SegmentFile(sim, path, None, number)
    segment.scan(0, verify_data=True)
    frames = np.frombuffer(segment.directory(), timeline.arrays.FRAME)
    offsets = [int(n) * 4096 for n in frames["offset_blocks"]]
    durable = [FRAME.unpack(sim.open(path).pread(FRAME.size, at))[3] for at in offsets]
    segment.close()
    return offsets, max(durable, default=0)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits(seeds: Seeds, kind: str) -> None:
    """One bit of the log or a run flips while the machine is off: the opening says Corruption, or everything durable is
    there; a read says Corruption, or gives the right bytes; nothing crashes, nothing is dropped in silence."""
    told = fine = 0
    for seed in seeds(20):
        result = flip(seed, kind)
        told, fine = told + (result == "told"), fine + (result == "fine")
    print(f"{seeds.done} flips: {told} told, {fine} without effect")
    assert seeds.done < 50 or (told > seeds.done // 20 and fine)


def flip(seed: int, kind: str) -> str:
    rnd = random.Random(seed)
    sim = SimOs(seed)
    world = World(seed, sim, "/v", replace(rnd.choice(SIZES), before=kind == "before"))
    world.create()
    for op in world.program(rnd.choice((10, 40)), {**WEIGHTS, "image": 0, "unimage": 0, "reopen": 0, "flush": 20}):
        world.run(op)
    node, model = world.root, world.root.model
    model.flush()
    node.volume.flush()
    known = {r.number for r in node.volume._store.timeline.rows()}
    world.crash("keep")
    logs = [f"/v/log/{n}" for n in sim.list_dir("/v/log") if int(n[:-4]) not in known]
    paths = [f"/v/{d}/{n}" for d in ("log", "log", "runs") for n in sim.list_dir(f"/v/{d}")]
    path = rnd.choice([*paths, "/v/disk.state", "/v/disk.json"] if kind == "before" else paths)
    offsets, durable = claims(sim, path) if path in logs else ([], 0)
    size = sim.size(path)
    if offsets:     # not the untouched part of a segment
        size = min(size, offsets[-1] + 40 * KIB)
    byte = rnd.choice((rnd.randrange(size), rnd.randrange(min(size, 4200)),
                       *(o + rnd.randrange(120) for o in offsets[-3:])))
    if path == "/v/disk.state":     # not its padding
        byte = byte % 64 + (size > 4096) * rnd.randrange(2) * 4096
    sim.flip(path, byte, rnd.randrange(8))
    try:
        return look(world, known, path, durable, rnd)
    except Corruption:
        return "told"
    except BaseException as e:
        e.add_note(f"({path} byte {byte}; durable #{durable}; frames {offsets})")
        raise


def look(world: World, known: set[int], path: str, durable: int, rnd: random.Random) -> str:
    world.open()
    node, model, size = world.root, world.root.model, world.size.volume
    seq = node.volume._core.position()[0]
    if path.startswith("/v/log/") and int(path[-14:-4]) not in known:
        assert seq >= durable, f"#{durable} was durable, #{seq} is what is left, and nobody was told"
    else:
        assert seq == len(model.rows)
    model.cut(seq)
    for at in {seq, *(node_seq for _ in range(6) if node.openable(node_seq := rnd.randint(0, seq)))}:
        with node.volume.at(at) as image:
            assert image.pread(size, 0) == model.at(at)[0]
            list(image.extents())
    comparing.learn(world, node)
    world.close()
    return "fine"
