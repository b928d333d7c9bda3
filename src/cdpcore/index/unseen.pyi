from typing_extensions import Buffer

from cdpcore.index.versions import Versions
from cdpcore.index.view import View

def not_shown(versions: Versions, view: View, segment: int, descriptors: Buffer,
              before: bool) -> list[tuple[int, int]]: ...
