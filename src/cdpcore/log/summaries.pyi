from typing import Self, TypeAlias, final

from typing_extensions import Buffer

from cdpcore.log.log import Log

_Packed: TypeAlias = tuple[int, int, bytes, int, bytes]

WIDTHS_NS: tuple[int, ...]

def of_segments(log: Log) -> list[tuple[int, _Packed | None]]: ...

@final
class Summary:
    def __new__(cls, volume_bytes: int, before: bool) -> Self: ...
    def add(self, seqs: Buffer, descs: Buffer) -> int: ...
    def packed(self) -> _Packed: ...
