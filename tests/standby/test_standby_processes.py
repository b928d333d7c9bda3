"""A server and its standby as processes, which are killed at any moment, under load: bytes and moments of both."""
from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.interop import STOP_SECONDS, World, cdp_argv, environ
from support.seeds import Seeds
from support.standbys import eventually

import cdp
from cdp.cli import exits
from cdp.nbd.client import Client
from cdp.store.layout import segment_numbers
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import CdpError
from cdpcore.system.os import posix

MIB = 1 << 20
SIZE = 16 * MIB


class Pair(World):
    """The volume `web`, its server, and a standby `copy` of it."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.cdp("create", "web", "--size", "16M", "--segment-bytes", "16M")
        self.standby: subprocess.Popen[bytes] | None = None
        self.said = self.path / "standby.log"

    def start(self) -> None:
        self.serve("web", "--standby-socket", self.sockets / "standby.sock")

    def follow(self, *args: str) -> None:
        with self.said.open("ab") as said:
            self.standby = subprocess.Popen(
                cdp_argv("standby", "copy", "--of", f"unix:{self.sockets}/standby.sock", "--name", "web", *args),
                cwd=self.path, env=environ(), stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def end_standby(self, how: int) -> None:
        assert self.standby is not None
        self.standby.send_signal(how)
        status = self.standby.wait(STOP_SECONDS)
        assert status == (0 if how == signal.SIGTERM else -how), self.said.read_text()[-3000:]
        self.standby = None

    def followed(self) -> dict[str, object]:
        """Wait until the standby has all; what the server says of it."""
        assert self.standby is not None

        def view() -> dict[str, object] | None:
            assert self.standby is not None and self.standby.poll() is None, self.said.read_text()[-3000:]
            found = self.json("info", "web")["standby"]
            return found if found and found["connected"] and not found["lag_records"] else None
        return eventually(view, f"the standby did not catch up: {self.said.read_text()[-2000:]}")

    def close(self) -> None:
        if self.standby is not None:
            self.standby.kill()
            self.standby.wait(STOP_SECONDS)
        super().close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


class Load(threading.Thread):
    """Writes to the volume whatever happens to its server, until stop()."""

    def __init__(self, pair: Pair):
        super().__init__(daemon=True)
        self._uri, self._rnd = pair.uri("web"), random.Random(1)
        self._stop_it, self.n_written, self.n_broken = threading.Event(), 0, 0

    def run(self) -> None:
        while not self._stop_it.is_set():
            try:
                client = Client(self._uri)
                while not self._stop_it.is_set():
                    length = self._rnd.choice((4096, 65_536, 300 * 1024))
                    client.pwrite(self._rnd.randbytes(length), self._rnd.randrange((SIZE - length) // 4096) * 4096,
                                  fua=self._rnd.random() < 0.1)
                    self.n_written += 1
                    time.sleep(0.002)
                client.close()
            except (CdpError, OSError):
                self.n_broken += 1
                time.sleep(0.02)

    def stop(self) -> None:
        self._stop_it.set()
        self.join(STOP_SECONDS)
        assert not self.is_alive()


def same_files(pair: Pair) -> None:
    """Of two that are closed: the log of the copy is that of the volume. The open end was sealed by each for itself."""
    ours, theirs = VolumeFiles(str(pair.path / "web")), VolumeFiles(str(pair.path / "copy"))
    numbers = segment_numbers(posix(), ours)
    assert segment_numbers(posix(), theirs) == numbers and numbers
    for number in numbers:
        assert Path(ours.segment(number)).read_bytes() == Path(theirs.segment(number)).read_bytes(), number


def shown(volume: cdp.Volume, seq: int) -> str:
    with volume.at(seq) as image:
        return hashlib.sha256(image.pread(SIZE, 0)).hexdigest()


def same_moments(pair: Pair, rnd: random.Random, n: int) -> None:
    with cdp.open(pair.path / "web") as web, cdp.open(pair.path / "copy") as copy:
        assert web.window().newest == copy.window().newest
        for seq in [0, web.window().newest.seq, *(rnd.randint(1, web.window().newest.seq) for _ in range(n))]:
            assert shown(web, seq) == shown(copy, seq), f"#{seq}"
            assert web.explain(seq).resolved == copy.explain(seq).resolved


def test_killed_at_any_moment(pair: Pair, seeds: Seeds):
    rnd = random.Random(5)
    pair.start()
    pair.follow()
    load = Load(pair)
    load.start()
    for _ in range(seeds.pick(2, 20)):
        time.sleep(rnd.uniform(0, 0.5))
        if rnd.random() < 0.5:
            pair.kill()
            time.sleep(rnd.uniform(0, 0.3))
            pair.start()
        else:
            pair.end_standby(signal.SIGKILL)
            time.sleep(rnd.uniform(0, 0.3))
            pair.follow()
    load.stop()
    assert load.n_written > 20
    view = pair.followed()
    assert view["mode"] == "async" and view["lag_bytes"] == 0 and view["lag_ns"] == 0
    pair.end_standby(signal.SIGTERM)
    pair.stop()
    done = json.loads(pair.cdp("standby", "copy", "--promote", "--json"))
    assert done["epoch"] == 2 and done["name"] == "web"
    same_moments(pair, rnd, seeds.pick(6, 50))
    same_files(pair)
    assert pair.json("check", "copy")["ok"]


def test_what_it_says_of_itself(pair: Pair):
    pair.start()
    assert pair.json("info", "web")["standby"] is None
    pair.follow()
    pair.followed()
    assert "async" in pair.cdp("info", "web") and "it has all" in pair.cdp("info", "web")
    pair.end_standby(signal.SIGTERM)
    with Client(pair.uri("web")) as client:
        client.pwrite(b"x" * 65_536, 0, fua=True)
    view = eventually(lambda: (v := pair.json("info", "web")["standby"]) and not v["connected"] and v, "connected")
    assert view["lag_records"] == 1 and view["lag_bytes"] > 65_536 and view["lag_ns"] > 0
    assert "lacks 1 records" in pair.cdp("info", "web")
    (status,) = pair.json("status", "web")
    assert status["standby"]["lag_records"] == 1
    pair.follow("--once")
    assert pair.standby is not None and pair.standby.wait(STOP_SECONDS) == 0
    pair.standby = None
    assert pair.json("info", "web")["standby"]["lag_records"] == 0
    assert pair.json("standby", "web", "--detach")["id"] == view["id"]
    assert pair.json("info", "web")["standby"] is None
    pair.stop()
    pair.cdp("info", "copy", status=exits.BUSY)
    pair.cdp("serve", "copy", status=exits.BUSY)
    pair.cdp("standby", "copy", "--promote")
    pair.cdp("standby", "copy", "--promote", status=exits.USAGE)
    with cdp.open(pair.path / "copy") as copy:
        assert copy.pread(65_536, 0) == b"x" * 65_536
