"""The numbers and layouts of the NBD protocol, for both of its sides.

Names follow doc/proto.md of the NetworkBlockDevice/nbd project. The transmission phase of the server is native
(cdpcore/nbd/nbd_wire.h).
"""
from __future__ import annotations

import enum
import struct

GREETING_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9

FLAG_FIXED_NEWSTYLE = 1
FLAG_NO_ZEROES = 2
NO_ZEROES_BYTES = 124  # that follow the answer to EXPORT_NAME unless NO_ZEROES was agreed
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF  # of a structured reply

GREETING = struct.Struct(">QQH")  # GREETING_MAGIC, OPTION_MAGIC, handshake flags
OPTION_HEADER = struct.Struct(">QII")  # OPTION_MAGIC, option, length
OPTION_REPLY = struct.Struct(">QIII")  # OPTION_REPLY_MAGIC, option, reply, length
EXPORT_INFO = struct.Struct(">QH")  # size in bytes, transmission flags
REQUEST = struct.Struct(">IHHQQI")  # REQUEST_MAGIC, flags, command, cookie, offset, length
SIMPLE_REPLY = struct.Struct(">IIQ")  # SIMPLE_REPLY_MAGIC, error, cookie
CHUNK = struct.Struct(">IHHQI")  # CHUNK_MAGIC, flags, type, cookie, length of what follows
DESCRIPTOR = struct.Struct(">II")  # of a block status: length in bytes, StatusFlag

DEFAULT_PORT = 10809
MAX_PAYLOAD_BYTES = 32 << 20  # of one request, where a server names no other
BASE_ALLOCATION = "base:allocation"  # the metadata context whose flags are StatusFlag
DIRTY_BITMAP = "qemu:dirty-bitmap:"  # and a bookmark's name; the flag is 1 where it was written since
SINCE = "cdp:since:"  # the same, and any point
MAX_CONTEXTS = 15  # of one connection, besides BASE_ALLOCATION


class Opt(enum.IntEnum):
    """Options a client may send."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Rep(enum.IntEnum):
    """Replies to options."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009


class Info(enum.IntEnum):
    """Information items of INFO and GO."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(enum.IntFlag):
    """What an export offers in the transmission phase."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Command(enum.IntEnum):
    """Commands of the transmission phase."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(enum.IntFlag):
    """Flags of a command."""

    FUA = 1
    NO_HOLE = 2
    DF = 4
    REQ_ONE = 8
    FAST_ZERO = 16


class Chunk(enum.IntEnum):
    """Types of a structured reply's chunks; from ERROR on they are errors."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 1 << 15


CHUNK_DONE = 1  # flag: the last chunk of its reply


class StatusFlag(enum.IntFlag):
    """What BASE_ALLOCATION says of a range; 0: data."""

    HOLE = 1
    ZERO = 2
