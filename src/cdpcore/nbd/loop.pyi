from collections.abc import Mapping
from enum import IntEnum
from socket import socket
from typing import Any, NoReturn, Self

from typing_extensions import disjoint_base

class End(IntEnum):
    DISCONNECTED = 1
    HUNG_UP = 2
    STOPPED = 3
    GARBAGE = 4
    OVERSIZE = 5
    RECV_FAILED = 6
    SEND_FAILED = 7
    PAUSED = 8
    SLOW = 9

@disjoint_base
class RequestLoop:
    def __new__(
        cls,
        sock: socket,
        *args: Any,
        structured: bool,
        context_id: int | None = None,
        fast_zero: bool = True,
        **kwargs: Any,
    ) -> Self: ...
    def __reduce__(self) -> NoReturn: ...
    def serve(self) -> End: ...
    def stop(self, *, now: bool = False) -> None: ...
    def pause(self) -> None: ...
    def rest(self) -> tuple[bytes, int]: ...
    def resume(self, received: bytes, skipped: int = 0, counters: Mapping[str, int] | None = None) -> None: ...
    def counters(self) -> dict[str, int]: ...
