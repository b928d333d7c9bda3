from typing import Any, final

from cdpcore.inplace.disk_state import DiskState
from cdpcore.inplace.disk_sums import DiskSums
from cdpcore.inplace.settler import DiskSettler
from cdpcore.log.log import Log
from cdpcore.log.segment_fds import SegmentFds
from cdpcore.volume.content import Content

@final
class BeforeImages(Content):
    def __new__(cls, log: Log, segments: SegmentFds, *, size_bytes: int, disk: str, state: DiskState,
                pending_bytes: int, pending_changes: int, skip_same: bool, read_only: bool = False) -> BeforeImages: ...
    @property
    def settler(self) -> DiskSettler: ...
    @property
    def sums(self) -> DiskSums: ...
    def append_foreign(self, ranges: list[tuple[int, int, bool]]) -> None: ...
    def lineage_changed(self, restoring: bool, discards: bool = False) -> None: ...
    def stats(self) -> dict[str, Any]: ...
