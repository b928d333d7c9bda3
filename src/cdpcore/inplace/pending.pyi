from typing import final

from cdpcore.system.os import Os

@final
class Pending:
    def __new__(cls, os: Os, *, data_bytes: int, n_changes: int, released_seq: int) -> Pending: ...
