from typing import final

from cdpcore.log.ring import FrameRing
from cdpcore.log.segments import LogFiles

@final
class LogWriter:
    def __new__(cls, ring: FrameRing, files: LogFiles, durable_seq: int) -> LogWriter: ...
