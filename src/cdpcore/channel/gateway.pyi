from socket import socket
from typing import NoReturn, Self, final

from cdpcore.channel.channel import Channel
from cdpcore.nbd.connection import End

@final
class GateConnection:
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
    ) -> Self: ...
    def __reduce__(self) -> NoReturn: ...
    def serve(self) -> End: ...
    def attach(self, door: int) -> None: ...
    def stop(self, *, now: bool = False) -> None: ...
    def counters(self) -> dict[str, int]: ...
