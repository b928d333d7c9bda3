from cdpcore.index.view import View
from cdpcore.volume.core import VolumeCore

def history(
    core: VolumeCore, line: View, offset: int, length: int, after: int, upto: int, most: int
) -> tuple[bytes, bool]: ...
