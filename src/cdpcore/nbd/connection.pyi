from collections.abc import Sequence
from socket import socket
from typing import Self, final

from cdpcore.nbd.loop import End as End
from cdpcore.nbd.loop import RequestLoop
from cdpcore.nbd.memory import ConnectionMemory

MIN_BLOCK_BYTES: int
PREFERRED_BLOCK_BYTES: int
MAX_PAYLOAD_BYTES: int
MAX_DRAIN_BYTES: int
RELEASES_PAGES: bool

def inspect(capsule: object) -> tuple[int, bool]: ...

@final
class Connection(RequestLoop):
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
        contexts: Sequence[tuple[int, object]] = (),
        memory: ConnectionMemory | None = None,
    ) -> Self: ...
