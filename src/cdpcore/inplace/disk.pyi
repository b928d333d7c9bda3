from typing import final

from cdpcore.base.stages import Stages
from cdpcore.system.os import Os

@final
class Disk:
    def __new__(cls, os: Os, path: str, stages: Stages, read_only: bool = False) -> Disk: ...
    def close(self) -> None: ...
