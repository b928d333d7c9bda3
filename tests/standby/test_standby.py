"""A standby has the log of its owner byte by byte, and, promoted, every moment; also where either of them is killed."""
from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.changing import SMALL, change, content, made, openable
from support.standbys import Owner, Standby, same_bytes

import cdp
from cdp.check.check import check
from cdp.standby.receiver import promote
from cdp.volume.volume import Volume
from cdpcore.base.errors import Busy


@pytest.mark.parametrize("kind", ["after", "base"])
def test_a_standby_has_every_byte_and_moment(kind: str, tmp_path: Path):
    rnd = random.Random(kind)
    folder = tmp_path / "copy"
    with Owner(made(tmp_path, kind), SMALL) as owner:
        change(owner.volume, rnd, 150, destroy=False)
        with Standby(folder, owner.socket):
            for _ in range(4):
                change(owner.volume, rnd, 60, destroy=False)
            owner.followed()
            with pytest.raises(Busy, match="is the standby of v"):
                Volume(folder)
            assert same_bytes(owner.volume, folder) > 100_000
            newest = owner.volume.window().newest.seq
        known = {seq: content(owner.volume, seq) for seq in openable(owner.volume, rnd, newest)}
    done = promote(str(folder), cdp.Settings())
    assert (done["seq"], done["epoch"]) == (newest, 2)
    with Volume(folder) as copy:
        assert copy.window().newest.seq == newest
        for seq, shown in known.items():
            assert content(copy, seq) == shown, f"#{seq} of #{newest}"
    assert check(folder).ok


def write(volume: Volume, rnd: random.Random, n: int) -> None:
    """Nothing that gives up history, so that all that was ever sent is in the log."""
    for _ in range(n):
        volume.pwrite(rnd.randbytes(rnd.choice((4096, 30_000))), rnd.randrange(100) * 4096)
        if rnd.random() < 0.1:
            volume.flush()


def test_both_sides_come_back_where_they_were(tmp_path: Path):
    """The connection breaks at any moment, the standby is stopped and begins again, the owner is closed and opened."""
    rnd, folder, path = random.Random(3), tmp_path / "copy", made(tmp_path, "after")
    known: dict[int, str] = {}
    received = 0
    with Owner(path, SMALL) as owner:
        write(owner.volume, rnd, 50)
        with Standby(folder, owner.socket) as standby:
            owner.followed()
            for _ in range(6):
                write(owner.volume, rnd, rnd.choice((3, 40)))
                owner.standing.forget()      # cuts the connection, wherever it is
            write(owner.volume, rnd, 30)
            owner.followed()
            received += standby.receiver.received_bytes
    for _ in range(3):
        with Owner(path, SMALL) as owner:
            write(owner.volume, rnd, rnd.choice((2, 70)))
            with Standby(folder, owner.socket) as standby:
                write(owner.volume, rnd, rnd.choice((2, 70)))
                owner.followed()
                log_bytes = same_bytes(owner.volume, folder)
                received += standby.receiver.received_bytes
            newest = owner.volume.window().newest.seq
            known |= {seq: content(owner.volume, seq) for seq in openable(owner.volume, rnd, newest)}
    assert received < 1.05 * log_bytes      # nothing was sent twice
    promote(str(folder), cdp.Settings())
    with Volume(folder) as copy:
        for seq in known:
            assert content(copy, seq) == known[seq], f"#{seq} of #{newest}"
