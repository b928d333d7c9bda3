from typing import final

@final
class View:
    def __new__(cls, pieces: list[tuple[int, int, list[tuple[int, int]]]]) -> View: ...
    @property
    def sectors(self) -> int: ...
