from typing import Any, final

from cdpcore.index.view import View
from cdpcore.volume.core import VolumeCore

@final
class Target:
    def __new__(cls, core: VolumeCore, view: View | None = None, pin: object = None) -> Target: ...
    def capsule(self) -> Any: ...
