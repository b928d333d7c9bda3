from collections.abc import Sequence
from socket import socket
from typing import Self, final

from cdpcore.channel.channel import Channel
from cdpcore.nbd.loop import RequestLoop
from cdpcore.nbd.memory import ConnectionMemory

@final
class GateConnection(RequestLoop):
    def __new__(
        cls,
        sock: socket,
        channel: Channel,
        door: int,
        *,
        size_bytes: int,
        read_only: bool,
        structured: bool,
        context_id: int | None = None,
        fast_zero: bool = True,
        contexts: Sequence[int] = (),
        memory: ConnectionMemory | None = None,
    ) -> Self: ...
    def attach(self, door: int) -> None: ...
