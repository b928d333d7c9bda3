from typing import final

from cdpcore.system.os import Os

@final
class SegmentSums:
    def __new__(cls, os: Os, directory: bytes) -> SegmentSums: ...
    @property
    def loaded(self) -> int: ...
    @property
    def from_frames(self) -> int: ...
