from typing import final

from cdpcore.log.pool import BufferPool

@final
class FrameRing:
    def __new__(cls, pool: BufferPool) -> FrameRing: ...
