from typing import Self, final

from cdpcore.index.view import View
from cdpcore.volume.core import VolumeCore

@final
class Changes:
    def __new__(cls, core: VolumeCore, first: View, second: View | None = None, pin: object = None) -> Self: ...
    def capsule(self) -> object: ...
    def differences(self, offset: int, length: int, compared: bool, most: int = 65536) -> tuple[bytes, int]: ...
