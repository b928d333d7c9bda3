from enum import IntEnum, IntFlag
from typing import final

from typing_extensions import Buffer

PACKET_BYTES: int
MAX_BGS: int
SECTOR_BYTES: int
VERSION: int

class Op(IntEnum):
    READ = 1
    WRITE = 2
    ZERO = 3
    TRIM = 4
    FLUSH = 5
    INQUIRE = 6

class Flag(IntFlag):
    REPLAY = 1
    FUA = 2
    RESPONSE = 4
    READ_ONLY = 8

@final
class MDPacket(Buffer):
    version: int
    op: int
    flags: int
    lun: int
    lba: int
    length_bytes: int
    cookie: int
    timestamp_ns: int
    seq: int
    skew_bytes: int
    n_bgs: int
    status: int
    sys_errno: int
    bg_home: int
    source_id: int
    source_instance: int
    epoch: int
    offset_bytes: int
    def __init__(self, op: int = 0, lun: int = 0, *, offset_bytes: int = 0, length_bytes: int = 0, cookie: int = 0,
                 flags: int = 0, timestamp_ns: int = 0) -> None: ...
    @staticmethod
    def from_bytes(buffer: Buffer) -> MDPacket: ...
    @staticmethod
    def view(buffer: Buffer) -> MDPacket: ...
    def copy(self) -> MDPacket: ...
    def check(self, size_bytes: int) -> None: ...
    def answer(self, status: int = 0, sys_errno: int = 0) -> None: ...
    def add_bg(self, slot: int, generation: int, offset_bytes: int, length_bytes: int) -> None: ...
    def set_bg(self, i: int, slot: int, generation: int, offset_bytes: int, length_bytes: int) -> None: ...
    def bg(self, i: int) -> tuple[int, int, int, int]: ...
    def __bytes__(self) -> bytes: ...
    def __eq__(self, value: object, /) -> bool: ...
