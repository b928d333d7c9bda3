from typing import Any

from cdpcore.replay import Driver

class NbdDriver(Driver):
    left_out: int
    def __init__(self, sock: Any, *, key: int, max_bytes: int, size_bytes: int, export_flags: int, depth: int, pattern: bool = True,
                 acks: Any = None) -> None: ...
    def target(self) -> Any: ...
