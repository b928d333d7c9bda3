from collections.abc import Callable
from typing import final

@final
class PyTarget:
    def __new__(
        cls, run: Callable[[int, int, int, memoryview | None, bool], None], size_bytes: int, read_only: bool = False
    ) -> PyTarget: ...
    def capsule(self) -> object: ...
