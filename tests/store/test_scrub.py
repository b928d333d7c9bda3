"""The scrub reads all that is sealed, at its rate, goes on after a restart, and finds bits that flipped."""
from __future__ import annotations

import os
import random
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from support.seeds import Seeds

import cdp
from cdp.check import check
from cdp.check.scrub import CLIENTS_SHARE, PAGE_BYTES, Scrub
from cdp.service.care import Care
from cdp.service.local import VolumeService
from cdp.settings import Settings
from cdp.store.scrub_file import MOST_PROBLEMS, Place, ScrubState, load, save
from cdpcore.nbd.connection import RELEASES_PAGES

pytestmark = pytest.mark.plain

MIB = 1 << 20
SIZE = 24 * MIB
SMALL = Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB, scrub_interval_ms=0)


class Clock:
    """Both clocks of a Scrub; each look takes `tick_s`."""

    def __init__(self, tick_s: float = 0.0):
        self.s, self.tick_s = 1000.0, tick_s

    def now_s(self) -> float:
        self.s += self.tick_s
        return self.s

    def now_ns(self) -> int:
        return int(self.s * 1e9)


def make(folder: Path, kind: str) -> Path:
    """A closed volume with several segments, runs, and a base or a disk."""
    path, rnd = folder / "v", random.Random(kind)
    disk = folder / "disk.img"
    if kind == "before":
        disk.write_bytes(rnd.randbytes(SIZE))
    with cdp.create(path, size=None if kind == "before" else SIZE, disk=disk if kind == "before" else None,
                    settings=SMALL) as v:
        if kind == "after":
            v.import_base(lambda at, view: view.__setitem__(slice(None), rnd.randbytes(len(view))), [(0, 6 * MIB)])
        for _ in range(36):
            v.pwrite(rnd.randbytes(MIB), rnd.randrange(SIZE // MIB) * MIB)
        v.flush()
        while v._store.kind.step():
            pass
    return path


def scrub_of(volume: cdp.Volume, clock: Clock, rate: int = 0, interval_s: float = 1.0) -> Scrub:
    return Scrub(volume, rate, interval_s, now_ns=clock.now_ns, now_s=clock.now_s)


def through(scrub: Scrub) -> ScrubState:
    """One scrub to its end."""
    assert scrub.wanted(1e12)
    scrub.step()
    while scrub.state.began_ns:
        scrub.step()
    return scrub.state


@pytest.mark.parametrize("kind", ["after", "before"])
def test_everything_is_read_and_a_sound_volume_has_no_problems(tmp_path: Path, kind: str):
    path = make(tmp_path, kind)
    with cdp.open(path, settings=SMALL) as v:
        state = through(scrub_of(v, Clock()))
        store = v._store
        stored = sum(r.file_bytes for r in [*store.timeline.rows(), *store.maintainer.runs])
        # The plain build cannot ask where a file has holes: it reads those of the base as well.
        stored += 6 * MIB if kind == "after" and RELEASES_PAGES else SIZE
        assert state.last_n_problems == 0 and state.last_problems == ()
        assert stored - PAGE_BYTES < state.last_bytes < stored + 5 * PAGE_BYTES
        assert load(store.os, store.files) == state


def flips(path: Path, kind: str, rnd: random.Random) -> list[Path]:
    """A bit flipped in each kind of file: those files."""
    logs = sorted((path / "log").glob("*.log"))
    found = [rnd.choice(logs), rnd.choice(sorted((path / "runs").iterdir()))]
    found.append(path / "base.img" if kind == "after" else path.parent / "disk.img")
    for file in found:
        whole = file.read_bytes()
        # Of a log: what frames hold. Of the others: anything that is not a hole.
        at = rnd.randrange(4096, min(len(whole), 6 * MIB if file.name == "base.img" else len(whole)))
        while not any(whole[at & ~511:(at & ~511) + 512]):
            at = rnd.randrange(4096, len(whole))
        before = file.stat()
        with file.open("r+b") as out:
            out.seek(at)
            out.write(bytes([whole[at] ^ 1 << rnd.randrange(8)]))
        if file.name == "disk.img":      # as if the medium had done it: the disk is known again by its times
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return found


@pytest.mark.parametrize("kind", ["after", "before"])
def test_flipped_bits_are_found_each_in_its_file(tmp_path: Path, kind: str):
    path, rnd = make(tmp_path, kind), random.Random(5)
    with cdp.open(path, settings=SMALL) as v:       # open: the medium rots while it is served
        victims = flips(path, kind, rnd)
        seen: list[tuple[str, str, str]] = []
        scrub = Scrub(v, 0, 1.0, lambda *problem: seen.append(problem))
        state = through(scrub)
        assert {where for where, _, _ in state.last_problems} == {str(file) for file in victims}
        assert state.last_problems == tuple(seen) and all(hint for _, _, hint in seen)
        view = VolumeService(v).info()["scrub"]
        assert view["n_problems"] == len(seen) and {p["where"] for p in view["problems"]} == set(map(str, victims))
        assert not check.check_open(v).ok
        found = {problem.where for problem in check.check_open(v).problems}
        assert set(map(str, victims)) <= {str(where) for where in found}


def test_it_goes_on_where_it_was_after_a_restart(tmp_path: Path):
    path = make(tmp_path, "after")
    with cdp.open(path, settings=SMALL) as v:
        whole = through(scrub_of(v, Clock())).last_bytes
        scrub, began = scrub_of(v, Clock(), rate=16 * MIB), 0
        while scrub.state.place == Place() or scrub.state.place.part == "log" and began < 12 * MIB:
            began += scrub.step()
        scrub.save()
        left = scrub.state
    with cdp.open(path, settings=SMALL) as v:
        scrub = scrub_of(v, Clock())
        assert scrub.state == left and scrub.wanted(1e12)
        rest = 0
        while scrub.state.began_ns:
            rest += scrub.step()
        assert began + rest == scrub.state.last_bytes == whole
        assert scrub.state.last_began_ns == left.began_ns


def test_it_keeps_to_its_rate_and_to_a_part_of_it_while_clients_wait(tmp_path: Path):
    path, rate = make(tmp_path, "after"), 8 * MIB
    with cdp.open(path, settings=SMALL) as v:
        for busy in (False, True):
            clock = Clock()
            scrub = scrub_of(v, clock, rate=rate)
            scrub._clients_wait()
            began_s, total = clock.s, 0
            while scrub.state.began_ns or not total:
                if busy:
                    v.pread(512, 0)
                if scrub.wanted(clock.s):
                    total += scrub.step()
                clock.s += 0.01
            share = rate // (CLIENTS_SHARE if busy else 1)
            assert share * 0.8 < total / (clock.s - began_s) < share * 1.2


def test_the_next_one_begins_an_interval_after_the_last_ended(tmp_path: Path):
    path = make(tmp_path, "after")
    with cdp.open(path, settings=SMALL) as v:
        clock = Clock()
        scrub = scrub_of(v, clock, interval_s=3600)
        through(scrub)
        assert not scrub.wanted(1e12)
        clock.s += 3599
        assert not scrub.wanted(1e12)
        clock.s += 2
        assert scrub.wanted(1e12)
        clock.s -= 8000     # the wall clock was set back: not put off for ever
        assert scrub.wanted(1e12)
        assert not scrub_of(v, clock, interval_s=0).wanted(1e12)


@pytest.mark.parametrize("kind", ["after", "before"])
def test_what_changes_meanwhile_is_no_damage(tmp_path: Path, seeds: Seeds, kind: str):
    path = make(tmp_path, kind)
    for seed in seeds(2):
        rnd = random.Random(seed)
        with cdp.open(path, settings=SMALL) as v:
            scrub = scrub_of(v, Clock(), rate=24 * MIB)
            scrub.step()
            while scrub.state.began_ns:
                match rnd.randrange(6):
                    case 0:
                        with suppress(cdp.RefusedPoint):    # in a gap
                            v.restore(f"#{rnd.randrange(v.window().oldest.seq, v.window().newest.seq)}",
                                      destructive=rnd.random() < 0.5)
                    case 1:
                        v.free_before(rnd.randrange(v.window().newest.seq))
                    case _:
                        v.pwrite(rnd.randbytes(256 << 10), rnd.randrange(SIZE // MIB) * MIB)
                scrub.step()
            assert scrub.state.last_n_problems == 0, scrub.state.last_problems


def test_problems_are_counted_beyond_what_is_kept(tmp_path: Path):
    state = ScrubState(began_ns=5)
    for i in range(MOST_PROBLEMS + 10):
        state = state.found(f"log/{i}", "rotten", "copy")
    assert len(state.problems) == MOST_PROBLEMS and state.n_problems == MOST_PROBLEMS + 10
    with cdp.create(tmp_path / "v", size=MIB) as v:
        save(v._store.os, v._store.files, state)
        assert load(v._store.os, v._store.files) == state
        file = tmp_path / "v/scrub.json"
        file.write_bytes(file.read_bytes().replace(b"rotten", b"better", 1))
        assert load(v._store.os, v._store.files) == ScrubState()


def test_a_server_scrubs_by_itself_and_a_check_counts_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdp.service.care.SCRUB_AFTER_S", 0.0)
    path = make(tmp_path, "after")
    fast = Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB, scrub_rate_bytes=0)
    with cdp.open(path, settings=SMALL) as v:
        service = VolumeService(v)
        assert service.info()["scrub"]["last_ended"] is None
        service.care = Care(v, fast)
        ended = threading.Event()
        for _ in range(600):
            if service.info()["scrub"]["last_ended_ns"]:
                break
            ended.wait(0.1)
        service.care.close()
        first = service.info()["scrub"]
        assert first["last_ended_ns"] and first["n_problems"] == 0 and first["percent"] is None
        assert service.check()["ok"]
        assert (service.info()["scrub"]["last_ended_ns"] or 0) > first["last_ended_ns"]
    assert check.check(path).ok
    with cdp.open(path, settings=SMALL) as v:
        assert VolumeService(v).info()["scrub"]["last_bytes"] > 0
