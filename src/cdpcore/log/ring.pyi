from typing import final

from cdpcore.log.memory import Memory
from cdpcore.system.os import Os

RULES: dict[str, int]

@final
class FrameRing:
    slot_bytes: int
    memory: Memory
    def __new__(cls, os: Os, memory: Memory, *, slot_bytes: int, unwritten_bytes: int,
                max_slots: int = ..., ahead: bool = False) -> FrameRing: ...
    @property
    def bytes(self) -> int: ...
    def release(self) -> None: ...
    def break_rule(self, rule: str) -> None: ...
