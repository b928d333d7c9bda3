from typing import final

@final
class Memory:
    limit_bytes: int
    def __new__(cls, limit_bytes: int) -> Memory: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def most_bytes(self) -> int: ...
