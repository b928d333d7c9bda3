"""The simulated disk agrees with a model of what a power cut may leave, and the same seed gives the same results."""
import random

import pytest
from support.seeds import Seeds
from support.simdisk import MIB, PAGE, SECTOR, durable_file, sectors, stamp, tree

from cdpcore.base.errors import CdpError
from cdpcore.system.os import SimOs

pytestmark = pytest.mark.sanitize


# --- a model ----------------------------------------------------------------------------------------------------------


class Model:
    """One file: its content now, and for each sector what it may hold after a power cut."""

    def __init__(self) -> None:
        self.now = bytearray()
        self.may: list[set[bytes]] = []
        self.sizes = {0}
        self.sync()

    def sync(self) -> None:
        self.sizes = {len(self.now)}
        self.may = [{s} for s in sectors(bytes(self.now) + b"\0" * (-len(self.now) % SECTOR))]

    def note(self) -> None:
        padded = sectors(bytes(self.now) + b"\0" * (-len(self.now) % SECTOR))
        while len(self.may) < len(padded):
            self.may.append({b"\0" * SECTOR})
        for known, sector in zip(self.may, padded + [b"\0" * SECTOR] * len(self.may), strict=False):
            known.add(sector)
        self.sizes.add(len(self.now))

    def allows(self, data: bytes) -> bool:
        if len(data) not in self.sizes:
            return False
        for sector, known in zip(sectors(data), self.may, strict=False):
            tails = {s[: len(sector)] for s in known}
            if sector in tails:
                continue
            # Cut by one size and grown again: zeros from there on.
            if not any(sector == (s[: n % SECTOR] + b"\0" * SECTOR)[: len(sector)] for s in known for n in self.sizes):
                return False
        return True


@pytest.mark.soak
def test_random_histories_agree_with_a_model(seeds: Seeds) -> None:
    for seed in seeds(200):
        rng = random.Random(seed)
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"")
        model = Model()
        for _ in range(rng.randrange(1, 60)):
            kind = rng.choice(("write", "write", "write", "truncate", "allocate", "punch", "sync", "crash"))
            offset, length = rng.randrange(40000), rng.choice((1, 100, SECTOR, PAGE, 10000))
            if rng.random() < 0.5:
                offset -= offset % SECTOR
            if kind == "write":
                data = rng.randbytes(length)
                f.pwrite(data, offset)
                model.now.extend(b"\0" * (offset - len(model.now)))
                model.now[offset : offset + length] = data
            elif kind == "truncate":
                f.truncate(offset)
                model.now = model.now[:offset] + b"\0" * (offset - len(model.now))
            elif kind == "allocate":
                f.allocate(offset, length)
                model.now.extend(b"\0" * (offset + length - len(model.now)))
            elif kind == "punch":
                offset, length = offset // SECTOR * SECTOR, length // SECTOR * SECTOR
                f.punch(offset, length)
                end = min(offset + length, len(model.now))
                model.now[offset:end] = b"\0" * max(end - offset, 0)
            model.note()
            if kind in ("write", "allocate"):
                # What grew the file before may be dropped, and a write may end with any of its sectors.
                end = offset + length
                model.sizes |= {end, *(i * SECTOR for i in range(offset // SECTOR + 1, end // SECTOR + 1))}
            if kind == "sync":
                f.datasync()
                model.sync()
            assert f.pread(1 << 20, 0) == model.now
            if kind == "crash":
                sim.power_on()
                f = sim.open("/f", write=True)
                survived = f.pread(1 << 20, 0)
                assert model.allows(survived)
                model.now = bytearray(survived)
                model.sync()


def program(seed: int, disk_seed: int) -> tuple[list[object], dict[str, bytes]]:
    """A random program on several files with faults and a power cut; what it saw, and what is left."""
    rng = random.Random(seed)
    sim = SimOs(disk_seed)
    seen: list[object] = []
    sim.fail("any", n=40, times=2)
    sim.misdirect_write(8192, part="b", n=3)
    sim.cut_at(rng.randrange(20, 90))
    for _ in range(120):
        name = rng.choice(("/a", "/b", "/c"))
        kind, offset, length = rng.randrange(8), rng.randrange(20) * 1000, rng.randrange(1, 20000)
        data = rng.randbytes(length)
        try:
            if kind == 0:
                sim.rename(name, rng.choice(("/a", "/b", "/c")))
            elif kind == 1:
                sim.sync_dir("/")
            elif kind == 2:
                sim.unlink(name)
            else:
                with sim.open(name, write=True, create=kind == 3) as f:
                    f.pwrite(data, offset)
                    if kind == 4:
                        f.datasync()
                    if kind == 5:
                        f.truncate(offset)
                    seen.append(f.pread(100, offset))
        except CdpError as error:
            seen.append(str(error))
        if not sim.powered:
            sim.power_on()
        seen.append(sim.now_ns())
    sim.power_on()
    return seen, tree(sim)


def test_the_same_seed_and_calls_give_the_same_results() -> None:
    for seed in range(20):
        assert program(seed, seed) == program(seed, seed)
    assert len({repr(program(1, disk)) for disk in range(10)}) > 1


def test_unsynced_content_is_bounded() -> None:
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"")
    data = bytes(16 * MIB)
    for _ in range(17):
        f.pwrite(data, 0)
    f.pwrite(b"last", 0)
    sim.power_on("drop")
    assert sim.size("/f") == 16 * MIB


@pytest.mark.soak
def test_many_histories_with_large_writes(seeds: Seeds) -> None:
    """A log as the engine keeps one: appended blocks, some large, synced in groups, the power going anywhere."""
    large = stamp(2 * MIB, 9)
    for seed in seeds(100):
        rng = random.Random(seed)
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"")
        f.allocate(0, 16 * MIB)
        f.datasync()
        sim.cut_at(rng.randrange(1, 70))
        end, durable_end = 0, 0
        try:
            for i in range(60):
                f.pwrite(large if i % 20 == 7 else large[:PAGE], end)
                end += 2 * MIB if i % 20 == 7 else PAGE
                if i % 5 == 4:
                    f.datasync()
                    durable_end = end
        except CdpError:
            pass
        sim.power_on()
        assert sim.size("/f") == 16 * MIB
        expected = b"".join(large if i % 20 == 7 else large[:PAGE] for i in range(60))
        with sim.open("/f") as f:
            assert f.pread(durable_end, 0) == expected[:durable_end]
            rest = sectors(f.pread(end - durable_end, durable_end))
            allowed = sectors(expected[durable_end:end])
            assert all(got in (sector, b"\0" * SECTOR) for got, sector in zip(rest, allowed, strict=True))
