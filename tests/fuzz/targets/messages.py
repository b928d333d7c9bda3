"""Messages between the processes of one server or node: JSON on a unix socket. What is none ends the link; what is no
call of the portable API is answered with an error; what is no connection that is handed over is refused."""
from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from cdp.ipc.errors import decode_error
from cdp.ipc.link import Link
from cdp.platform.posix.calls import answer
from cdp.serve.handover import Taking
from cdpcore.base.errors import CdpError


def _received(data: bytes) -> dict[str, Any] | None:
    near, far = socket.socketpair()
    with Link(near) as link, far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        got = link.receive()
    return got[0] if got else None


def _answered(message: dict[str, Any]) -> None:
    """As the hub of the posix platform carries out a call; what it is about is repeated."""
    near, far = socket.socketpair()
    near.setblocking(True)

    def serve(method: str, args: list[Any]) -> tuple[Any, Sequence[int]]:
        assert isinstance(args, list)
        return [method, args], ()

    with Link(near) as link, Link(far) as other:
        if answer(link, message, serve):
            got = other.receive()
            assert got is not None and ("value" in got[0] or "error" in got[0])
            if "error" in got[0]:
                decode_error(got[0]["error"])


def _taken(data: bytes) -> None:
    """As the new process of a hand-over takes what the old one sends."""
    near, far = socket.socketpair()
    with far, Link(near) as link:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)
        taking = Taking(link)
        try:
            taking.offer()
            taking.take()
        except CdpError:
            pass
        finally:
            taking.stopped.hang_up()


def one(data: bytes) -> None:
    if not data:
        return
    how, data = data[0] % 3, data[1:65000]
    if how == 0:
        message = _received(data)
    elif how == 1:
        message = _received(len(data).to_bytes(4, "little") + data)
    else:
        lines = [line for line in data.split(b"\n") if line]
        _taken(b"".join(len(line).to_bytes(4, "little") + line for line in lines))
        return
    if message is not None:
        _answered(message)
