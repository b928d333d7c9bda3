from typing import Any, Self

from typing_extensions import disjoint_base

from cdpcore.trace.driver import Driver

@disjoint_base
class NbdDriver(Driver):
    left_out: int
    def __new__(cls, sock: Any, *, key: int, max_bytes: int, size_bytes: int, export_flags: int, depth: int,
                pattern: bool = True, acks: Any = None) -> Self: ...
    def target(self) -> Any: ...
