from typing import final

from typing_extensions import Buffer

from cdpcore.system.os import Os

@final
class BufferPool(Buffer):
    def __new__(cls, os: Os, *, slot_bytes: int, n_slots: int) -> BufferPool: ...
    @property
    def slot_bytes(self) -> int: ...
    @property
    def n_slots(self) -> int: ...
    @property
    def bytes(self) -> int: ...
