from typing import Any, Self

from typing_extensions import disjoint_base

KIND_NAMES: tuple[str, ...]
RECORD_BYTES: int
QUANTILES: tuple[float, ...]

@disjoint_base
class Driver:
    size_bytes: int
    key: int
    max_bytes: int
    changes: int
    numbered: int
    durable: int
    issued: int
    late_ns: int
    sectors_checked: int
    sectors_foreign: int
    check_reads: bool
    def run(self, records: Any, start: int = 0, data: Any = None, *, speed: float = 0.0, origin_ts_ns: int = 0,
            origin_ns: int = 0, budget_ns: int = ...) -> int: ...
    def finish(self) -> None: ...
    def counters(self) -> dict[str, dict[str, int]]: ...
    def written_bytes(self) -> tuple[int, int, int]: ...
    def histogram(self, kind: str) -> list[tuple[int, int]]: ...

@disjoint_base
class TargetDriver(Driver):
    def __new__(cls, target: Any, *, key: int, max_bytes: int, pattern: bool = True, acks: Any = None) -> Self: ...
