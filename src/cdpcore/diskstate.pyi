from typing import final

from cdpcore.osapi import Os

@final
class DiskState:
    def __new__(cls, os: Os, path: str, uuid: bytes, create: bool = False) -> DiskState: ...
    @property
    def applied_seq(self) -> int: ...
    def close(self) -> None: ...
