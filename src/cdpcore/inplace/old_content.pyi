from typing import final

from cdpcore.inplace.reader import DiskReader
from cdpcore.system.os import Os

RULES: dict[str, int]

@final
class OldContent:
    def __new__(cls, os: Os, reader: DiskReader) -> OldContent: ...
    def break_rule(self, rule: str) -> None: ...
    @property
    def taken(self) -> int: ...
