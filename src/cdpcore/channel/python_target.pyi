from collections.abc import Callable, Iterable
from typing import final

@final
class PyTarget:
    def __new__(
        cls, run: Callable[[int, int, int, memoryview | None, bool], None], size_bytes: int, read_only: bool = False,
        extents: Callable[[int, int, int], Iterable[tuple[int, int, int]]] | None = None
    ) -> PyTarget: ...
    def capsule(self) -> object: ...
