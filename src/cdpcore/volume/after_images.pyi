from typing import final

from cdpcore.index.view import View
from cdpcore.log.log import Log
from cdpcore.log.segment_fds import SegmentFds
from cdpcore.volume.content import Content
from cdpcore.volume.core import VolumeCore

@final
class AfterImages(Content):
    def __new__(cls, log: Log, segments: SegmentFds, *, size_bytes: int, base: str = "",
                parent: VolumeCore | None = None, parent_view: View | None = None,
                parent_pin: object = None) -> AfterImages: ...
    def of_log(self, view: View, offset: int, most: int) -> tuple[list[tuple[int, int, int]], int]: ...
    def base_changed(self) -> None: ...
    def check_base(self, path: str) -> bool: ...
    def set_base(self, path: str) -> None: ...
