"""Messages that are none, from a process that should know better: the link ends, or who reads it gets a clear error; no
descriptor is left open."""
from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from cdp.ipc.errors import decode_error
from cdp.ipc.link import Link
from cdp.serve.handover import Taking
from cdpcore.base.errors import Busy, CdpError, Unavailable

pytestmark = pytest.mark.once

OFFER = {"op": "offer", "version": 1, "pid": 1, "addresses": []}
CONNECTION: dict[str, Any] = {"op": "connection", "received_bytes": 0}


@pytest.fixture
def links() -> Iterator[tuple[Link, Link]]:
    near, far = socket.socketpair()
    with Link(near) as ours, Link(far) as theirs:
        yield ours, theirs


def open_descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


def test_a_message_that_is_nested_too_deeply_ends_the_link(links: tuple[Link, Link]) -> None:
    ours, theirs = links
    body = b"[" * 100_000
    theirs.sock.sendall(len(body).to_bytes(4, "little") + body)
    assert ours.receive() is None


@pytest.mark.parametrize("body", [None, [], "x", 1, {}, {"kind": "open", "message": 1}])
def test_an_error_that_is_none_is_an_error(body: Any) -> None:
    assert isinstance(decode_error(body), CdpError)


@pytest.mark.parametrize("message", [
    {"op": "listener"}, {"op": "listener", "address": []}, {"op": "listener", "address": ["tcp"]},
    {"op": "listener", "address": 5}, {"op": "listener", "address": ["unix", "p", 384], "inode": 5},
    {"op": "connection"}, CONNECTION, {**CONNECTION, "received_bytes": -1}, {**CONNECTION, "received_bytes": "x"},
    {**CONNECTION, "received_bytes": 1 << 60}, {"op": "control"}, {"op": "open"}, {"op": "open", "paused_s": []},
], ids=str)
@pytest.mark.parametrize("with_fds", [0, 1, 2, 3])
def test_what_a_hand_over_sends_that_is_none_of_its_messages(links: tuple[Link, Link], message: dict[str, Any],
                                                             with_fds: int) -> None:
    """It is refused, so the process that was to take over ends with a message, and the old one goes on."""
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("this system has no /proc/self/fd")
    ours, theirs = links
    before = open_descriptors()
    taking = Taking(ours)
    theirs.send(OFFER)
    assert taking.offer()["pid"] == 1
    with socket.socket() as sock, open(os.devnull) as file:
        theirs.send(message, [sock.fileno(), file.fileno(), file.fileno()][:with_fds])
    theirs.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(Unavailable):
        taking.take()
    taking.stopped.hang_up()
    assert open_descriptors() == before


def test_a_refusal_without_a_reason(links: tuple[Link, Link]) -> None:
    ours, theirs = links
    theirs.send({"op": "refused"})
    with pytest.raises(CdpError, match="did not name"):
        Taking(ours).offer()


def test_another_message_than_the_next(links: tuple[Link, Link]) -> None:
    ours, theirs = links
    theirs.send({"op": "taken"})
    with pytest.raises(Busy, match="'taken' and not 'offer'"):
        Taking(ours).offer()
