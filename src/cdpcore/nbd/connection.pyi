from enum import IntEnum
from socket import socket
from typing import Self, final

MIN_BLOCK_BYTES: int
PREFERRED_BLOCK_BYTES: int
MAX_PAYLOAD_BYTES: int
MAX_DRAIN_BYTES: int
RELEASES_PAGES: bool

class End(IntEnum):
    DISCONNECTED = 1
    HUNG_UP = 2
    STOPPED = 3
    GARBAGE = 4
    OVERSIZE = 5
    RECV_FAILED = 6
    SEND_FAILED = 7

def inspect(capsule: object) -> tuple[int, bool]: ...

@final
class Connection:
    def __new__(
        cls,
        sock: socket,
        capsule: object,
        *,
        read_only: bool,
        structured: bool,
        context_id: int | None = None,
        fast_zero: bool = True,
        own_fua: bool = False,
    ) -> Self: ...
    def serve(self) -> End: ...
    def stop(self, *, now: bool = False) -> None: ...
    def counters(self) -> dict[str, int]: ...
