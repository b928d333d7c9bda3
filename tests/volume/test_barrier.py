"""One moment of several volumes, under load: what was acknowledged before is in, what begins after is not, and the
order of writes to different volumes is kept."""
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

import cdp
from cdp.volume import barrier as barriers
from cdp.volume.barrier import barrier
from cdpcore.volume.barrier import positions

SECTOR = 512


@contextmanager
def open_volumes(folder, count):
    with ExitStack() as stack:
        yield [stack.enter_context(cdp.create(folder / f"v{n}", size=1 << 20)) for n in range(count)]


def number_at(volume, seq):
    with volume.at(f"#{seq}") as image:
        return int.from_bytes(image.pread(8, 0), "little")


class Chain:
    """A thread that writes 1 to the first volume, then to the second ...; then 2: each write after the one before was
    acknowledged."""

    def __init__(self, volumes):
        self.volumes, self.acked, self.stop = volumes, [0] * len(volumes), False
        self.thread = threading.Thread(target=self.run)

    def run(self):
        number = 0
        while not self.stop:
            number += 1
            for i, volume in enumerate(self.volumes):
                volume.pwrite(number.to_bytes(8, "little") + bytes(SECTOR - 8), 0)
                self.acked[i] = number

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_error):
        self.stop = True
        self.thread.join()


def wrong_moments(volumes, rounds):
    """What is wrong with the moments of `rounds` barriers under load."""
    wrong = []
    with Chain(volumes) as chain:
        while not all(chain.acked):
            time.sleep(0.001)
        for _ in range(rounds):
            before = list(chain.acked)
            moments = barriers.barrier(volumes).moments
            after = [n + 1 for n in chain.acked]    # the next one may be in, though it is not acknowledged
            found = [number_at(volume, at.seq) for volume, at in zip(volumes, moments, strict=True)]
            if sorted(found, reverse=True) != found or found[0] - found[-1] > 1:
                wrong.append(f"out of order: {found}")
            if any(not lo <= n <= hi for lo, n, hi in zip(before, found, after, strict=True)):
                wrong.append(f"not now: {before} {found} {after}")
            time.sleep(0.0005)
    return wrong


@pytest.fixture
def often():
    """Threads change places often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_the_moment_is_one(tmp_path, often):
    with open_volumes(tmp_path, 3) as volumes:
        assert wrong_moments(volumes, 60) == []


@pytest.mark.planted
@pytest.mark.parametrize("missed", [0, 1, 2])
def test_a_barrier_that_misses_a_volume_is_noticed(tmp_path, often, monkeypatch, missed):
    """Planted: one volume is looked at by itself, before the others or after them."""
    def planted(cores, limit_ns):
        early = positions([cores[missed]], limit_ns) if missed == 0 else None
        time.sleep(0.001)
        found, pause_ns = positions([core for i, core in enumerate(cores) if i != missed], limit_ns)
        time.sleep(0.001)
        found.insert(missed, (early or positions([cores[missed]], limit_ns))[0][0])
        return found, pause_ns

    monkeypatch.setattr(barriers, "positions", planted)
    with open_volumes(tmp_path, 3) as volumes:
        assert wrong_moments(volumes, 40)


def test_a_bookmark_in_each_or_none(tmp_path):
    with open_volumes(tmp_path, 2) as (one, two):
        one.pwrite(b"x" * SECTOR, 0)
        made = barrier([one, two], "both", keep_ns=10**9)
        assert [mark.at for mark in made.bookmarks] == list(made.moments)
        assert [m.seq for m in made.moments] == [1, 0]
        assert [volume.resolve("both") for volume in (one, two)] == list(made.moments)
        assert {pin.owner for pin in one.pins()} == {"both"}
        two.bookmark("taken")
        with pytest.raises(cdp.InvalidRequest, match="taken"):
            barrier([one, two], "taken")
        assert [mark.name for mark in one.bookmarks()] == ["both"]
        with pytest.raises(cdp.InvalidRequest, match="twice"):
            barrier([one, one])
        assert barrier([]).moments == ()


def test_a_volume_that_cannot_be_held_holds_up_no_other(tmp_path):
    with open_volumes(tmp_path, 2) as (one, two):
        two._core.freeze()
        failed = []

        def attempt():
            try:
                positions([one._core, two._core], 20_000_000)
            except cdp.Unavailable as error:
                failed.append(str(error))

        waiting = threading.Thread(target=attempt)
        waiting.start()
        one.pwrite(b"x" * SECTOR, 0)    # goes on, however long the other is held
        waiting.join()
        two._core.thaw()
        assert failed and "within 20 ms" in failed[0]
        assert positions([one._core, two._core], 10**9)[0][0][0] == 1


def test_a_closed_volume_is_said_so(tmp_path):
    with open_volumes(tmp_path, 2) as (one, two):
        two.close()
        for call in (lambda: barrier([one, two]), lambda: positions([one._core, two._core], 10**6)):
            with pytest.raises(cdp.Closed):
                call()
        one.pwrite(b"x" * SECTOR, 0)        # nothing is held
