import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypeAlias, TypedDict, final

from typing_extensions import Buffer

_Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_Interval: TypeAlias = tuple[int, int]  # (lo, hi): lo < seq <= hi
_View: TypeAlias = Iterable[tuple[int, int, Iterable[_Interval]]]  # (start, end, intervals)
_Answer: TypeAlias = tuple[int, int, int] | tuple[None, None, int]  # (seq, loc, until)
_Extent: TypeAlias = tuple[int, int, list[tuple[int, int]]]  # (start, end, [(seq, loc), ...])
_Piece: TypeAlias = tuple[int, int, int]  # (start, end, loc)

LOC_ZERO: int
LOC_HOLE: int
LOC_BASE: int
MAX_SECTORS: int
MAX_RUNS: int
MAX_TREES: int

class _Header(TypedDict):
    uuid: bytes
    seqs: tuple[int, int]
    segments: tuple[int, int]
    n_extents: int
    n_versions: int
    n_blocks: int
    file_bytes: int

@final
class ExtentTree:
    def __new__(cls, max_records: int = 262144) -> Self: ...
    @property
    def has_room(self) -> bool: ...
    @property
    def bytes(self) -> int: ...
    def insert(self, seq: int, start: int, end: int, loc: int) -> None: ...
    def find(self, sector: int, intervals: Iterable[_Interval]) -> _Answer: ...
    def extents(self) -> list[_Extent]: ...

@final
class Run:
    def __new__(cls, path: _Path, uuid: Buffer | None = None, os: object = None) -> Self: ...
    @property
    def path(self) -> _Path: ...
    @property
    def header(self) -> _Header: ...
    def find(self, sector: int, intervals: Iterable[_Interval]) -> _Answer: ...
    def extents(self) -> list[_Extent]: ...
    def verify(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def write_tree(
    path: _Path, tree: ExtentTree, uuid: Buffer, seqs: Sequence[int], segments: Sequence[int], os: object = None
) -> None: ...
def merge(
    path: _Path,
    runs: Iterable[Run],
    uuid: Buffer,
    seqs: Sequence[int],
    segments: Sequence[int],
    dropped: Iterable[_Interval] = (),
    os: object = None,
) -> None: ...
def lookup(
    view: _View, trees: Iterable[ExtentTree], runs: Iterable[Run], start: int, end: int, cap: int = 4096
) -> tuple[list[_Piece], int]: ...
def lookup_runs(
    view: _View, runs: Iterable[Run], pieces: Iterable[_Piece], cap: int = 4096
) -> tuple[list[_Piece], int]: ...
