from typing import Any, final

@final
class View:
    def __new__(cls, pieces: list[Any]) -> View: ...
    @property
    def sectors(self) -> int: ...
