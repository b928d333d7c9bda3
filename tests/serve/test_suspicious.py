"""Content that is encrypted in place is noticed, fast or slow, and the moment before is kept; honest loads are not."""
from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cdp
from cdp.service.alerts import SECOND_NS
from cdp.service.care import Care
from cdp.service.changes import KEEP_NS, MOST_BOOKMARKS, PREFIX
from cdp.service.local import VolumeService
from cdp.service.suspicion import Look, Suspicion
from cdp.service.watch import Watch
from cdp.settings import Settings

MIB, BLOCK = 1 << 20, 4096
SIZE = 96 * MIB
WORDS = [bytes(random.Random(i).choices(b"etaoinshrdlucmfwyp", k=3 + i % 7)) for i in range(500)]
TEXT = b" ".join(random.Random(1).choices(WORDS, k=100_000))
SETTINGS = Settings(alert_suspicious_bytes=4 * MIB, scrub_interval_ms=0, segment_bytes=16 * MIB)


class World:
    """A volume with a watch; `step` is one look, ten seconds of simulated time after the one before."""

    def __init__(self, path: Path, seed: int, before: bool):
        self.rnd = random.Random(seed)
        if before:
            with (path.parent / "disk").open("wb") as disk:
                disk.truncate(SIZE)
            self.volume = cdp.create(path, disk=path.parent / "disk", settings=SETTINGS)
        else:
            self.volume = cdp.create(path, size=SIZE, settings=SETTINGS)
        self.service = VolumeService(self.volume)
        self.care = Care(self.volume, SETTINGS)
        self.service.care = self.care
        self.ns = 10**18
        self.watch = Watch(self.service, self.care.book, lambda: self.ns, lambda: ("boot", self.ns - 10**17))
        self.key = self.rnd.randbytes(BLOCK)

    def close(self) -> None:
        self.care.close()
        self.volume.close()

    def text(self, blocks: int = 1) -> bytes:
        at = self.rnd.randrange(len(TEXT) - blocks * BLOCK)     # drawing words takes longer than all else here
        return TEXT[at:at + blocks * BLOCK]

    def noise(self, blocks: int = 1) -> bytes:
        return self.rnd.randbytes(blocks * BLOCK)

    def fill(self, first: int, blocks: int, of: Callable[[int], bytes]) -> None:
        for at in range(first, first + blocks, 16):
            self.volume.pwrite(of(16), at * BLOCK)

    def read(self, block: int, blocks: int = 1) -> bytes:
        return self.volume.pread(blocks * BLOCK, block * BLOCK)

    def step(self) -> bool:
        self.volume.flush()
        self.ns += 10 * SECOND_NS
        self.watch.look()
        return "suspicious" in [alert["kind"] for alert in self.service.alerts()]


@pytest.fixture(params=[False, True], ids=["after", "before"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path / "v", 7, request.param)
    yield made
    made.close()


def encrypt(world: World, block: int, blocks: int) -> None:
    world.read(block, blocks)
    world.volume.pwrite(world.noise(blocks), block * BLOCK)


@pytest.mark.parametrize(("blocks_a_look", "looks"), [(2048, 2), (512, 6), (64, 40)], ids=["fast", "steady", "slow"])
def test_encryption_in_place_is_noticed_and_the_moment_before_is_kept(world: World, blocks_a_look: int, looks: int):
    world.fill(0, 4096, world.text)
    assert not world.step()
    world.fill(8000, 512, world.text)
    assert not world.step()
    whole = world.read(0, 4096)
    at, order = 0, [b for b in range(0, 4096, 16)]
    world.rnd.shuffle(order)
    for look in range(looks):
        for _ in range(blocks_a_look // 16):
            encrypt(world, order[at], 16)
            at += 1
        world.volume.pwrite(world.text(), 9000 * BLOCK)
        if world.step():
            break
    assert look < looks and world.care.book.counts["suspicious"] == 1
    [mark] = world.service.bookmarks()
    assert mark["name"].startswith(PREFIX)
    [alert] = world.service.alerts()
    assert f"@{mark['name']}" in alert["what"] and alert["level"] == "error" and "overwrote data" in alert["what"]
    [pin] = [pin for pin in world.volume.pins() if pin.owner == mark["name"]]
    assert 0 < pin.left_ns <= KEEP_NS
    with world.volume.at(f"@{mark['name']}") as image:
        assert image.pread(4096 * BLOCK, 0) == whole
    # It is raised once, and over ten minutes after the run, twice: for the run to be over, and for the alert.
    for _ in range(130):
        raised = world.step()
    assert not raised and world.care.book.counts["suspicious"] == 1 and len(world.service.bookmarks()) == 1


def test_encryption_on_a_disk_that_is_encrypted_is_noticed_later(world: World):
    world.fill(0, 8192, world.noise)
    assert not world.step()
    n = 0
    while n < 8192:
        for _ in range(32):
            encrypt(world, n, 16)
            n += 16
        if world.step():
            break
    assert 16 * MIB <= n * BLOCK < 28 * MIB


def upgrade(world: World, look: int) -> None:
    """Archives are fetched, unpacked to new files beside the old ones, which are read to be compared, and freed."""
    first = 4096 + look * 700
    world.fill(first, 128, world.noise)
    world.read(first, 128)
    world.read(look * 200, 200)
    world.fill(first + 128, 400, world.text)
    if look % 3 == 2:
        world.volume.trim(200 * BLOCK, look * 200 * BLOCK)


def vacuum_full(world: World, look: int) -> None:
    """A table is read and written anew elsewhere, then there and back again: what was read is overwritten."""
    there, back = (0, 4096) if look % 2 else (4096, 0)
    for at in range(0, 1024, 16):
        page = world.read(back + at, 16)
        world.volume.pwrite(page[64:] + page[:64], (there + at) * BLOCK)


def mkfs(world: World, look: int) -> None:
    world.volume.trim(SIZE, 0)
    for group in range(0, SIZE // BLOCK, 2048):
        world.read(group, 4)
        world.volume.pwrite(bytes(3 * BLOCK) + world.text(), group * BLOCK)
        world.volume.zero(64 * BLOCK, (group + 8) * BLOCK)


def backup_restored(world: World, look: int) -> None:
    """Compressed, over what was there."""
    world.fill(look * 1024, 1024, world.noise)


def fstrim(world: World, look: int) -> None:
    world.read(look * 100, 100)
    world.volume.trim(16 * MIB, (8 + 8 * look) * MIB)


def random_writes(world: World, look: int) -> None:
    """A benchmark: noise to random places of one file, again and again."""
    for _ in range(1000):
        world.volume.pwrite(world.noise(), world.rnd.randrange(4096) * BLOCK)


def database(world: World, look: int) -> None:
    """Pages are read, changed a little, and written; the log of it is compressed."""
    for _ in range(500):
        page = world.rnd.randrange(4096)
        old = world.read(page)
        world.volume.pwrite(old[:100] + world.rnd.randbytes(60) + old[160:], page * BLOCK)
    log = zlib.compress(world.text(64)).ljust(64 * BLOCK, b"\0")
    world.volume.pwrite(log, (12000 + look * 64) * BLOCK)


@pytest.mark.parametrize("load", [upgrade, vacuum_full, mkfs, backup_restored, fstrim, random_writes, database],
                         ids=lambda load: load.__name__)
def test_an_honest_load_raises_none(world: World, load: Callable[[World, int], None]):
    world.fill(0, 8192, world.text)
    world.step()
    for look in range(8):
        load(world, look)
        assert not world.step()
    assert world.volume.bookmarks() == []


@pytest.mark.parametrize("load", [vacuum_full, random_writes, database], ids=lambda load: load.__name__)
def test_an_honest_load_on_an_encrypted_disk_raises_none_below_its_threshold(world: World, load):
    world.fill(0, 8192, world.noise)
    world.step()
    for look in range(3):
        load(world, look)
        assert not world.step()


def test_there_are_never_many_bookmarks_of_it(world: World):
    for i in range(MOST_BOOKMARKS):
        world.volume.bookmark(f"{PREFIX}{i}")
    world.fill(0, 4096, world.text)
    world.step()
    for at in range(0, 4096, 16):
        encrypt(world, at, 16)
    assert world.step() and len(world.volume.bookmarks()) == MOST_BOOKMARKS


def test_turned_off_nothing_is_counted(tmp_path: Path):
    with cdp.create(tmp_path / "v", size=MIB) as volume:
        care = Care(volume, Settings(alert_suspicious_bytes=0))
        watch = Watch(VolumeService(volume), care.book, lambda: 10**18)
        assert watch.changes._rewrites is None
        care.close()


def test_what_a_volume_did_in_the_past_raises_its_threshold():
    suspicion = Suspicion(4 * MIB)
    night = Look(5, 10.0, written=3.0 * MIB, scrambled=3.0 * MIB)
    quiet = Look(9, 86_400.0)
    suspicion.add(night)
    for _ in range(2):
        suspicion.add(quiet)
    assert suspicion.found is None and suspicion.threshold("open") > 4 * MIB
    suspicion.add(Look(20, 10.0, written=5.0 * MIB, scrambled=4.5 * MIB))
    assert suspicion.found is None
    suspicion.add(Look(30, 10.0, written=3.0 * MIB, scrambled=3.0 * MIB))
    assert suspicion.found is not None and suspicion.found.begin_seq == 20


def test_a_copy_that_is_encrypted_counts_when_what_was_read_is_trimmed():
    suspicion = Suspicion(4 * MIB)
    suspicion.add(Look(5, 10.0, written=6.0 * MIB, trimmed=6.0 * MIB, removed=6.0 * MIB, random=0.0))
    assert suspicion.found is None
    suspicion.add(Look(6, 10.0, written=6.0 * MIB, trimmed=6.0 * MIB, removed=6.0 * MIB, random=6.0 * MIB))
    assert suspicion.found is not None and suspicion.bytes >= 4 * MIB
