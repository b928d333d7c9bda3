from typing import Any

from cdpcore.replay import Driver

class NbdDriver(Driver):
    left_out: int
    def __new__(cls, sock: Any, *, key: int, max_bytes: int, size_bytes: int, export_flags: int, depth: int, pattern: bool = True,
                 acks: Any = None) -> NbdDriver: ...
    def target(self) -> Any: ...
