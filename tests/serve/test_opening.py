"""Volumes are served one by one as they are opened; one that cannot be opened does not stop the others."""
from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import cdp
import cdp.serve.luns
import cdp.serve.opening
import cdp.serve.server
from cdp.nbd.client import Client
from cdp.nbd.server import NbdServer
from cdp.serve.opening import MAX_WAITING, Opening
from cdp.serve.server import Server
from cdp.service.locate import Location
from cdp.service.remote import RemoteService
from cdp.service.servers import _of
from cdpcore.base.errors import Busy, CdpError, Corruption, Unavailable

WAIT_S = 60


def until(what: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + WAIT_S
    while not (got := what()) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert got
    return got


class Fleet:
    """Volumes a, b, c, and a server of them in a thread; opening one waits for its gate."""

    def __init__(self, path: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch):
        self.gates = {name: threading.Event() for name in "abc"}
        self.fails: dict[str, Exception] = {}
        self.begun: list[str] = []
        self.path, self.sockets = path, sockets
        for name in "abc":
            cdp.create(path / name, size=1 << 20).close()
        opens = cdp.serve.server._open_to_serve

        def open_to_serve(location: Location, settings: cdp.Settings, taking_over: bool) -> Any:
            name = Path(location.root).name
            self.begun.append(name)
            assert self.gates[name].wait(WAIT_S)
            if name in self.fails:
                raise self.fails[name]
            return opens(location, settings, taking_over)

        monkeypatch.setattr(cdp.serve.server, "_open_to_serve", open_to_serve)
        self.server: Server | None = None
        self.entered = threading.Event()
        self.error: BaseException | None = None

    def start(self, strict: bool = False) -> None:
        settings = cdp.Settings(unix_socket=str(self.sockets / "s"), admin_socket=str(self.sockets / "a"))
        self.server = Server([str(self.path / name) for name in "abc"], settings, strict=strict)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        assert self.server
        try:
            with self.server:
                self.entered.set()
                self.server.wait()
        except BaseException as error:  # noqa: BLE001  (the test looks at it)
            self.error = error

    def end(self) -> BaseException | None:
        for gate in self.gates.values():
            gate.set()
        if self.server:
            self.server.stop()
            self.thread.join(WAIT_S)
            assert not self.thread.is_alive()
        return self.error

    def client(self, name: str) -> Client:
        return Client(f"nbd+unix:///{name}?socket={self.sockets / 's'}")

    def client_soon(self, name: str) -> Client:
        """Once the server listens."""
        until(lambda: self.server and self.server._nbd)
        return self.client(name)

    def remote(self, name: str = "a") -> RemoteService:
        return RemoteService(str(self.sockets / "a"), name, Location(str(self.path / name)))

    def not_open(self) -> list[tuple[str, str]]:
        with self.remote() as remote:
            return [(one["name"], one["state"]) for one in remote.server()["not_open"]]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="cdp-o-") as sockets:
        fleet = Fleet(tmp_path, Path(sockets), monkeypatch)
        yield fleet
        fleet.end()


def test_each_is_served_as_soon_as_it_is_open(fleet: Fleet) -> None:
    fleet.gates["a"].set()
    fleet.gates["c"].set()
    fleet.start()
    with fleet.client_soon("a") as client:
        client.pwrite(b"x" * 4096, 0)
        client.flush()
    with fleet.client("c@now") as client:
        assert client.pread(4096, 0) == bytes(4096)
    until(lambda: fleet.not_open() == [("b", "opening")])
    with fleet.remote("b") as remote, pytest.raises(Unavailable, match="is being opened by its server"):
        remote.info()
    assert {view["name"]: view["state"] for view in _of(str(fleet.sockets / "a"))} == {
        "a": "serving", "b": "opening", "c": "serving"}
    assert not fleet.entered.is_set()
    got: list[int] = []

    def late() -> None:
        with fleet.client("b") as client:
            got.append(client.size_bytes)

    waits = threading.Thread(target=late)
    waits.start()
    until(lambda: fleet.server and fleet.server._opening._waiting)
    fleet.gates["b"].set()
    waits.join(WAIT_S)
    assert got == [1 << 20]
    until(fleet.entered.is_set)
    assert fleet.not_open() == []
    with fleet.remote("b") as remote:
        assert remote.info()["served"]
    assert fleet.end() is None


def test_the_empty_name_is_not_the_volume_that_happens_to_be_open(fleet: Fleet) -> None:
    fleet.gates["a"].set()
    fleet.start()
    fleet.client_soon("a").close()
    with pytest.raises(CdpError, match="there are a, b, c"):
        fleet.client("")


def test_the_wait_is_not_counted_against_the_handshake(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    init = NbdServer.__init__
    monkeypatch.setattr(NbdServer, "__init__", lambda *args, **more: init(*args, **more, handshake_timeout_s=1.0))
    fleet.gates["a"].set()
    fleet.start()
    fleet.client_soon("a").close()
    got: list[int] = []

    def late() -> None:
        with fleet.client("b") as client:
            got.append(client.size_bytes)

    waits = threading.Thread(target=late)
    waits.start()
    until(lambda: fleet.server and fleet.server._opening._waiting)
    time.sleep(1.2)
    fleet.gates["b"].set()
    waits.join(WAIT_S)
    assert got == [1 << 20]


def test_who_waits_too_long_is_told_to_come_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdp.serve.opening, "WAIT_S", 0.05)
    fleet.start()
    with pytest.raises(CdpError, match="b is being opened still"):
        fleet.client_soon("b")
    for gate in fleet.gates.values():
        gate.set()
    until(fleet.entered.is_set)
    fleet.client("b").close()


def test_one_that_cannot_be_opened_does_not_stop_the_others(fleet: Fleet) -> None:
    fleet.fails["b"] = Corruption("the catalog is damaged", "run 'cdp check --rebuild'")
    for gate in fleet.gates.values():
        gate.set()
    fleet.start()
    until(fleet.entered.is_set)
    assert fleet.not_open() == [("b", "cannot be opened")]
    fleet.client("a").close()
    with pytest.raises(CdpError, match="b could not be opened: the catalog is damaged"):
        fleet.client("b")
    with fleet.remote("b") as remote, pytest.raises(Unavailable, match="the catalog is damaged"):
        remote.info()
    states = {view["name"]: view["state"] for view in _of(str(fleet.sockets / "a"))}
    assert states["b"] == "cannot be opened: the catalog is damaged; run 'cdp check --rebuild'"
    error = fleet.end()
    assert isinstance(error, Unavailable) and "b was not served: the catalog is damaged" in error.message


@pytest.mark.parametrize("strict", [False, True])
def test_it_ends_with_the_error(fleet: Fleet, strict: bool) -> None:
    """Where none can be opened; strict: where one cannot, and no client is served before that is known."""
    fleet.fails = {name: Corruption(f"{name} is damaged") for name in ("b" if strict else "abc")}
    for gate in fleet.gates.values():
        gate.set()
    fleet.start(strict)
    fleet.thread.join(WAIT_S)
    assert isinstance(fleet.error, Corruption) and fleet.error.message == ("b is damaged" if strict else "a is damaged")
    assert not list(fleet.sockets.iterdir())
    for name in "abc":
        cdp.open(fleet.path / name).close()


def test_a_stop_while_volumes_are_opened(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not begun is not opened."""
    cancelled: list[bool] = []
    cancel = Future.cancel
    monkeypatch.setattr(Future, "cancel", lambda self: cancelled.append(cancel(self)))
    monkeypatch.setattr(cdp.serve.luns, "OPENED_AT_A_TIME", 1)
    fleet.start()
    until(lambda: fleet.begun == ["a"])
    assert fleet.server
    fleet.server.stop()
    fleet.gates["a"].set()
    until(lambda: len(cancelled) == 2)
    fleet.gates["b"].set()      # a thread may have taken it meanwhile
    fleet.thread.join(WAIT_S)
    assert not fleet.thread.is_alive() and fleet.error is None and "c" not in fleet.begun
    cdp.open(fleet.path / "a").close()


def test_so_many_wait_at_most() -> None:
    opening = Opening({"a": "/a", "b": "/b"})
    threads = [threading.Thread(target=opening.wait, args=("a",)) for _ in range(MAX_WAITING)]
    for thread in threads:
        thread.start()
    until(lambda: opening._waiting == MAX_WAITING)
    with pytest.raises(Busy, match="with 1 other"):
        opening.wait("a")
    opening.opened("b")
    opening.wait("b")
    opening.opened("a")
    for thread in threads:
        thread.join(WAIT_S)
    assert not opening._waiting and not opening.not_open()
