from typing import final

LEAST_BYTES: int

@final
class ConnectionMemory:
    def __new__(cls, limit_bytes: int, *, pace_ms: int = 4000) -> ConnectionMemory: ...
    def counters(self) -> dict[str, int]: ...

class Ranges: ...
