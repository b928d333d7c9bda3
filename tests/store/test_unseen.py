"""What no moment that stays shows: its blocks are overwritten with garbage in the segments' files, and every moment
that stays must read as before, since a read that touches such a block fails; and nothing else is left, by brute
force."""
from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from support.simcatalog import on
from support.sizes import KIB, tuning

from cdp.moments import lineage
from cdp.store import creation
from cdp.store.unseen import moments_of, rows_within, unseen
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError
from cdpcore.system.os import SimOs

SIZE = 64 * KIB
TUNING = tuning(80 * KIB, 640 * KIB, records=100)
SECTOR, BLOCK = 512, 4096


@dataclass
class History:
    """A volume whose records are all sealed. shown: what it showed after each request, by seq; writes: (seq, first
    sector, end) of each, in order."""

    sim: SimOs
    volume: Volume
    shown: dict[int, bytes] = field(default_factory=dict)
    freed: list[tuple[int, int]] = field(default_factory=list)

    def restores(self) -> list[tuple[int, int]]:
        return [(row.target_seq, row.seq) for row in self.volume._store.restores]

    def openable(self) -> list[int]:
        return [seq for seq in self.shown if not lineage.freed(seq, self.volume._store.gaps())]


def history(seed: int, before: bool, restores: bool, requests: int = 90) -> History:
    rng, sim = random.Random(seed), SimOs(seed + 1)
    if before:
        with sim.open("/disk", write=True, create=True) as file:
            file.truncate(SIZE)
            file.datasync()
    creation.create("/v", SIZE, TUNING, os=sim, catalog=on(sim), disk="/disk" if before else "")
    made = History(sim, Volume("/v", _tuning=TUNING, _os=sim, _catalog=on(sim)))
    volume = made.volume
    made.shown[0] = bytes(SIZE)
    for number in range(requests):
        what, at = rng.random(), rng.randrange(SIZE // SECTOR) * SECTOR
        if rng.random() < 0.5:
            at = at // BLOCK * BLOCK
        n = min(SIZE - at, rng.choice((SECTOR, BLOCK, BLOCK, 3 * SECTOR, 4 * BLOCK)))
        if what < 0.7:
            volume.pwrite(bytes([number % 255 + 1]) * n, at, fua=rng.random() < 0.3)
        elif what < 0.8:
            volume.zero(n, at)
        elif what < 0.87:
            volume.trim(n, at)
        elif what < 0.93 or not restores:
            volume.flush()
        else:
            volume.restore(f"#{rng.choice(made.openable())}", offset=at, length=n, destructive=rng.random() < 0.2)
            written_back(volume)
        made.shown[volume._core.position()[0]] = volume.pread(SIZE, 0)
    volume.flush()
    made.shown[volume._core.position()[0]] = volume.pread(SIZE, 0)
    volume._store.core.set_aside()
    volume._store.step()
    assert volume._store.timeline.rows()[-1].last_seq == volume._core.position()[0]
    return made


def written_back(volume: Volume) -> None:
    while volume.writeback is not None and volume.writeback.progress() is not None:
        volume._store.step()
        volume.writeback.step()


def found(made: History, moments: list[int]) -> dict[int, list[tuple[int, int]]]:
    """By the number of the segment."""
    store = made.volume._store
    return {row.number: list(unseen(store, moments, row)) for row in rows_within(store, moments)}


def ruin(made: History, ranges: dict[int, list[tuple[int, int]]]) -> int:
    """Garbage where nobody looks; how many bytes of it."""
    for number, some in ranges.items():
        with made.sim.open(f"/v/log/{number:010d}.log", write=True) as file:
            for offset, length in some:
                assert offset % BLOCK == length % BLOCK == 0 and length
                file.pwrite(b"\xee" * length, offset)
    return sum(length for some in ranges.values() for _, length in some)


def wrong(made: History, moments: list[int]) -> list[int]:
    """Moments that do not read as they should."""
    bad = []
    for seq in made.openable():
        if seq in moments or seq >= moments[-1]:
            try:
                with made.volume.at(seq) as image:
                    if image.pread(SIZE, 0) != made.shown[seq]:
                        bad.append(seq)
            except CdpError:
                bad.append(seq)
    return bad


def choose(made: History, rng: random.Random, most: int = 12) -> list[int]:
    seqs = made.openable()
    upto = rng.choice(seqs[len(seqs) // 2:])
    return moments_of(rng.sample(seqs, rng.randrange(most)), 0, upto, made.restores())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["after", "before"])
def test_what_stays_reads_as_before(kind: str, seed: int):
    made = history(seed, kind == "before", restores=True)
    moments = choose(made, random.Random(seed))
    lost = ruin(made, found(made, moments))
    assert lost or len(moments) > 20
    assert not wrong(made, moments)


@pytest.mark.planted
@pytest.mark.parametrize("kind", ["after", "before"])
def test_moments_that_are_forgotten_are_noticed(kind: str):
    """What is seen by them alone is found as soon as they are left out, and then they read wrong."""
    noticed = 0
    for seed in range(3):
        made = history(seed, kind == "before", restores=True)
        newest = made.openable()[-1]
        ruin(made, found(made, moments_of([], 0, newest, made.restores())))
        noticed += bool(wrong(made, moments_of(made.openable(), 0, newest, made.restores())))
    assert noticed == 3


@pytest.mark.parametrize("kind", ["after", "before"])
def test_what_a_restore_goes_back_to_stays(kind: str):
    """A list without the targets of restores, and what undo would show, is not enough."""
    noticed = 0
    for seed in range(3):
        made = history(seed, kind == "before", restores=True)
        ends = [0, made.openable()[-1]]
        ruin(made, found(made, ends))
        noticed += bool(wrong(made, moments_of([], *ends, made.restores())))
    assert noticed >= 2


@pytest.mark.parametrize("kind", ["after", "before"])
def test_all_of_it_is_found(kind: str):
    """By brute force, where nothing was restored: a version that no moment shows, in whole blocks."""
    for seed in range(2):
        made = history(seed, kind == "before", restores=False)
        moments, store = choose(made, random.Random(seed)), made.volume._store
        versions: dict[int, list[tuple[int, int, int]]] = {}       # of a sector: (seq, segment, its sector in the file)
        data: dict[int, set[int]] = {}
        for row in store.timeline.rows():
            data[row.number] = set()
            for seqs, descs in store.timeline.descriptors(row.number):
                for seq, d in zip(seqs.tolist(), descs, strict=True):
                    for i in range(int(d["sectors"]) if d["kind"] in (1, 2, 3) else 0):
                        place = int(d["data_sector"]) + i if d["data_bytes"] else 0
                        versions.setdefault(int(d["start"]) + i, []).append((seq, row.number, place))
        seen = set()
        for column in versions.values():
            for moment in [*moments[:-1], *range(moments[-1], made.volume._core.position()[0] + 1)]:
                if kind == "before":
                    shown = next((v for v in column if v[0] > moment), None)
                else:
                    shown = next((v for v in reversed(column) if v[0] <= moment), None)
                seen.add(shown)
        expected: dict[int, set[int]] = {row.number: set() for row in rows_within(store, moments)}
        for column in versions.values():
            for version in column:
                if version not in seen and version[2] and moments[0] < version[0] <= moments[-1]:
                    expected[version[1]].add(version[2])
        for number, some in found(made, moments).items():
            blocks = {at for offset, length in some for at in range(offset // BLOCK, (offset + length) // BLOCK)}
            whole = {s // 8 for s in expected[number] if all(s // 8 * 8 + i in expected[number] for i in range(8))}
            assert blocks == whole, (seed, number)


def test_nothing_lies_between_neighbours():
    made = history(1, False, restores=False)
    newest = made.volume._core.position()[0]
    assert not any(found(made, list(range(newest + 1))).values())
    assert rows_within(made.volume._store, [newest, newest]) == []
