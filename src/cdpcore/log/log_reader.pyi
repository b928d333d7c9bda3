from typing import Literal, final

from cdpcore.log.damage import Damage
from cdpcore.log.log import Log
from cdpcore.log.segment_fds import SegmentFds

@final
class LogReader:
    def __new__(cls, log: Log, files: SegmentFds, damage: Damage) -> LogReader: ...
    def break_rule(self, rule: Literal["check"]) -> None: ...
