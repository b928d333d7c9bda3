from collections.abc import Iterable
from typing import Self

from cdpcore.index.view import View
from cdpcore.volume.core import VolumeCore

RANDOM_MOST: int
ORDERED_LEAST: int
ALIKE_MOST: int
BLOCK_BYTES: int
ONE_IN: int

class Rewrites:
    def __new__(cls, core: VolumeCore) -> Self: ...
    def take(self, tick: int) -> tuple[int, list[tuple[int, list[int]]]]: ...
    def compare(self, before: View, after: View, blocks: Iterable[int]) -> tuple[int, int, int, int, int]: ...
