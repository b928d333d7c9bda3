from typing import final

from cdpcore.system.os import Os

@final
class Disk:
    def __new__(cls, os: Os, path: str, read_only: bool = False) -> Disk: ...
    def close(self) -> None: ...
