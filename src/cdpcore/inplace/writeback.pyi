from typing import final

from cdpcore.inplace.before_images import BeforeImages
from cdpcore.volume.core import VolumeCore

@final
class RestoreWriter:
    def __new__(cls, core: VolumeCore, images: BeforeImages) -> RestoreWriter: ...
    def not_on_disk(self, offset: int, length: int) -> tuple[int, int]: ...
    def write_back(self, offset: int, length: int, max_records: int) -> tuple[int, int]: ...
