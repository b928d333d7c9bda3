from typing import Literal, final

from cdpcore.log.ring import FrameRing
from cdpcore.log.segments import LogFiles

RULES: dict[str, int]

@final
class LogWriter:
    def __new__(cls, ring: FrameRing, files: LogFiles, durable_seq: int) -> LogWriter: ...
    def break_rule(self, rule: Literal["sync", "gap", "zeros"]) -> None: ...
