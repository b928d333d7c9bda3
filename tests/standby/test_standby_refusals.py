"""What has no standby, what is not the volume that a standby follows, and what connects there without being one."""
from __future__ import annotations

import random
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.changing import SMALL, made
from support.standbys import Owner, Standby, eventually

import cdp
from cdp.check.check import check
from cdp.standby import wire
from cdp.standby.copy import Copy
from cdp.standby.receiver import Source, promote
from cdp.standby.wire import Channel
from cdp.store import standby_file
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdp.volume.volume import Volume
from cdpcore.base.errors import Busy, CdpError, Corruption, InvalidRequest, NotFound, RefusedPoint
from cdpcore.system.os import posix


def write(volume: Volume, n: int, seed: int = 1) -> None:
    rnd = random.Random(seed)
    for _ in range(n):
        volume.pwrite(rnd.randbytes(8192), rnd.randrange(100) * 4096)


def refused(folder: Path, owner: Owner, kind: type[CdpError], what: str) -> None:
    standby = Standby(folder, owner.socket)
    error = standby.ended()
    assert isinstance(error, kind) and what in error.message and error.hint, error


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "log").iterdir()}


def test_a_disk_in_place_has_none(tmp_path: Path):
    with Owner(made(tmp_path, "before"), SMALL) as owner:
        refused(tmp_path / "copy", owner, InvalidRequest, "protects a disk in place")


def test_a_thinned_history_has_none(tmp_path: Path):
    with Owner(made(tmp_path, "after"), SMALL) as owner:
        owner.volume._store.geometry = replace(owner.volume._store.geometry, format=7)
        refused(tmp_path / "copy", owner, InvalidRequest, "thins its history")


@pytest.mark.parametrize("n", [5, 200])
def test_what_went_on_elsewhere_is_refused(n: int, tmp_path: Path):
    """The volume was brought back from an earlier copy and went on: it has other records of the same numbers."""
    path, folder = made(tmp_path, "after"), tmp_path / "copy"
    with Owner(path, SMALL) as owner:
        write(owner.volume, 10)
        owner.volume.flush()
    earlier = {path: path.read_bytes() for path in Path(path).rglob("*") if path.is_file()}
    with Owner(path, SMALL) as owner, Standby(folder, owner.socket):
        write(owner.volume, n, seed=2)
        owner.followed()
    for file in [file for file in Path(path).rglob("*") if file.is_file() and file not in earlier]:
        file.unlink()
    for file, content in earlier.items():
        file.write_bytes(content)
    with Owner(path, SMALL) as owner:
        write(owner.volume, n + 3, seed=3)
        owner.volume.flush()
        before = files(folder)
        refused(folder, owner, RefusedPoint, "went on elsewhere")
        assert files(folder) == before
    promote(str(folder), cdp.Settings())        # and it is still what it was
    with Volume(folder) as copy:
        assert copy.window().newest.seq >= 10 + n


def test_a_standby_that_was_away_for_too_long(tmp_path: Path):
    path, folder = made(tmp_path, "after"), tmp_path / "copy"
    with Owner(path, SMALL) as owner:
        with Standby(folder, owner.socket):
            write(owner.volume, 50)
            owner.followed()
        write(owner.volume, 400)
        owner.volume.flush()
        eventually(lambda: owner.volume.free_before(350, undo=False).start.seq > 100, "nothing could be given up")
        eventually(lambda: owner.volume.freeing() is None, "it was not freed")
        refused(folder, owner, RefusedPoint, "has given up, or freed")


def test_a_former_owner_is_refused(tmp_path: Path):
    path, folder = made(tmp_path, "after"), tmp_path / "copy"
    with Owner(path, SMALL) as owner:
        with Standby(folder, owner.socket):
            write(owner.volume, 5)
            owner.followed()
        state = standby_file.load(posix(), VolumeFiles(str(folder)))
        standby_file.save(posix(), VolumeFiles(str(folder)), replace(state, epoch=2))
        refused(folder, owner, InvalidRequest, "another host was made its owner")


def test_other_names_and_folders(tmp_path: Path):
    with Owner(made(tmp_path, "after"), SMALL) as owner:
        other = Standby(tmp_path / "copy", owner.socket)
        other.stop()
        error = Standby(tmp_path / "v", owner.socket).ended()
        assert isinstance(error, InvalidRequest) and "is no standby" in error.message
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "file").write_text("mine")
        assert isinstance(Standby(tmp_path / "mine", owner.socket).ended(), InvalidRequest)
        assert (tmp_path / "mine" / "file").read_text() == "mine"
        assert isinstance(Standby(tmp_path / "no" / "copy", owner.socket).ended(), NotFound)
        first = Standby(tmp_path / "one", owner.socket)
        eventually(lambda: owner.standing.known, "it did not come")
        first.stop()


def test_what_is_not_complete_is_not_promoted(tmp_path: Path):
    copy = Copy(str(tmp_path / "copy"))
    copy.begin("unix:/nowhere", "v")
    with pytest.raises(Busy, match="keeps this standby"):
        promote(str(tmp_path / "copy"), cdp.Settings())
    copy.close()
    with pytest.raises(InvalidRequest, match="not complete"):
        promote(str(tmp_path / "copy"), cdp.Settings())
    with pytest.raises(Busy, match="is the standby of v"):
        standby_file.refuse(posix(), VolumeFiles(str(tmp_path / "copy")))


def test_a_damaged_standby_file_is_not_guessed(tmp_path: Path):
    path = made(tmp_path, "after")
    Path(path, "standby.json").write_text("{}")
    with pytest.raises(Corruption, match="damaged"):
        Volume(path)


def test_a_promotion_that_was_broken_off_is_taken_back(tmp_path: Path):
    path, folder = made(tmp_path, "after"), tmp_path / "copy"
    with Owner(path, SMALL) as owner:
        with Standby(folder, owner.socket):
            write(owner.volume, 100)
            owner.followed()
        part = max((folder / "log").glob("*.part"))
        part.rename(part.with_suffix(".log"))       # and no further
        with pytest.raises(Busy, match="is the standby of v"):
            Volume(folder)
        with Standby(folder, owner.socket):
            write(owner.volume, 100, seed=2)
            owner.followed()
        newest = owner.volume.window().newest.seq
    promote(str(folder), cdp.Settings())
    with Volume(folder) as copy:
        assert copy.window().newest.seq == newest


@pytest.mark.parametrize("said", [
    b"GET / HTTP/1.1\r\n\r\n", wire.MAGIC + b"\0" * 64, wire.MAGIC + wire.HEAD.pack(wire.HELLO, 0, 0, 0, 1 << 40),
    wire.MAGIC + wire.HEAD.pack(wire.HELLO, 0, 0, 0, 4) + b"null", wire.MAGIC + wire.HEAD.pack(wire.HELLO, 0, 0, 0, 2)
    + b"{}", wire.MAGIC + wire.HEAD.pack(wire.DATA, 1, 0, 0, 1) + b"x", b""])
def test_what_is_no_standby_is_hung_up_on(said: bytes, tmp_path: Path):
    with Owner(made(tmp_path, "after"), SMALL) as owner:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(owner.socket)
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
        write(owner.volume, 3)
        with Standby(tmp_path / "copy", owner.socket):
            owner.followed()


def test_random_bytes_hurt_nobody(tmp_path: Path):
    rnd = random.Random(4)
    with Owner(made(tmp_path, "after"), SMALL) as owner:
        for _ in range(40):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(owner.socket)
                body = rnd.randbytes(rnd.randrange(200))
                sock.sendall(rnd.choice((b"", wire.MAGIC, wire.MAGIC + wire.HEAD.pack(
                    rnd.choice((1, 2, 17)), 0, 0, 0, len(body)))) + body)
        write(owner.volume, 3)
        with Standby(tmp_path / "copy", owner.socket):
            owner.followed()


def test_a_standby_believes_nothing_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One byte in some of what is sent is changed on the way: it is sent again, and the copy is right."""
    path, folder, rnd, broken = made(tmp_path, "after"), tmp_path / "copy", random.Random(6), 0
    send = Channel.send

    def sends(self: Channel, kind: int, number: int = 0, offset: int = 0, value: int = 0, body: bytes = b"") -> None:
        nonlocal broken
        if kind == wire.DATA and rnd.random() < 0.05 and broken < 8:
            broken += 1
            at = rnd.randrange(len(body))
            body = body[:at] + bytes([body[at] ^ 1 << rnd.randrange(8)]) + body[at + 1:]
        send(self, kind, number, offset, value, body)

    monkeypatch.setattr(Channel, "send", sends)
    with Owner(path, Tuning(**{**vars(SMALL), "commit_interval_ms": 20})) as owner:
        with Standby(folder, owner.socket):
            for seed in range(25):
                write(owner.volume, 20, seed)
                owner.followed()
        assert broken >= 3
        newest = owner.volume.window().newest.seq
        monkeypatch.undo()
    promote(str(folder), cdp.Settings())
    assert check(folder).ok
    with Volume(folder) as copy, Volume(path) as volume:
        assert copy.window().newest.seq == newest
        assert copy.pread(400 * 1024, 0) == volume.pread(400 * 1024, 0)


@pytest.mark.parametrize("text", ["", "host:99999", "tls://", "a b"])
def test_addresses_that_are_none(text: str):
    with pytest.raises(InvalidRequest):
        Source.parse(text, None)
    with pytest.raises(InvalidRequest):
        Source.parse("unix:/x", "/certs")
