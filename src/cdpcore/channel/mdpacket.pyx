"""MDPacket: one I/O request, or its answer, as Python sees it. 128 bytes (channel/mdpacket.h), references to data and
never data.

A packet owns its bytes, or with view() lies in the caller's memory (a slot of a shared ring), where setters write
through.
Threading: a packet is a value; who shares one between threads guards it.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.string cimport memcmp, memcpy, memset
from cdpcore.base.errors cimport check
import enum

from cdpcore.base.errors import InvalidRequest


class Op(enum.IntEnum):
    """What a packet asks for."""

    READ = CDP_MD_READ
    WRITE = CDP_MD_WRITE
    ZERO = CDP_MD_ZERO
    TRIM = CDP_MD_TRIM
    FLUSH = CDP_MD_FLUSH
    INQUIRE = CDP_MD_INQUIRE


class Flag(enum.IntFlag):
    """REPLAY: it was sent before, to an owner that is gone. FUA: durable before it is answered. RESPONSE: an answer.
    READ_ONLY: of the LUN, in the answer to INQUIRE."""

    REPLAY = CDP_MD_REPLAY
    FUA = CDP_MD_FUA
    RESPONSE = CDP_MD_RESPONSE
    READ_ONLY = CDP_MD_READ_ONLY


PACKET_BYTES = CDP_MD_BYTES
MAX_BGS = CDP_MD_BGS
SECTOR_BYTES = CDP_MD_SECTOR
VERSION = CDP_MD_VERSION


@cython.final
cdef class MDPacket:
    """MDPacket(op=0, lun=0, *, offset_bytes=0, length_bytes=0, cookie=0, flags=0, timestamp_ns=0)

    Every field of the struct is a property that can be read and set; OverflowError for what does not fit it. A new
    packet has the current version and zeros. memoryview(packet) is its 128 bytes, valid as long as the packet;
    bytes(packet) copies them. Nothing is checked before check(): a packet may come from anywhere.
    """

    def __cinit__(self, *args, **kwargs):
        self.p = &self.own
        memset(self.p, 0, sizeof(cdp_mdpacket))
        self.p.version = CDP_MD_VERSION

    def __init__(self, uint8_t op=0, uint32_t lun=0, *, uint64_t offset_bytes=0, uint64_t length_bytes=0,
                 uint64_t cookie=0, uint16_t flags=0, uint64_t timestamp_ns=0):
        self.p.op = op
        self.p.lun = lun
        self.p.lba = offset_bytes // CDP_MD_SECTOR
        self.p.skew_bytes = offset_bytes % CDP_MD_SECTOR
        self.p.length_bytes = length_bytes
        self.p.cookie = cookie
        self.p.flags = flags
        self.p.timestamp_ns = timestamp_ns

    @staticmethod
    def from_bytes(buffer):
        """A packet of its own, copied from 128 bytes. Raises InvalidRequest for another length."""
        cdef MDPacket packet = MDPacket.__new__(MDPacket)
        cdef const uint8_t[::1] data = memoryview(buffer).cast("B")
        if data.shape[0] != CDP_MD_BYTES:
            raise InvalidRequest(f"a packet of {data.shape[0]} bytes", f"it has {CDP_MD_BYTES}")
        memcpy(packet.p, &data[0], CDP_MD_BYTES)
        return packet

    @staticmethod
    def view(buffer):
        """The packet that lies in `buffer`: 128 writable bytes, aligned to 8, kept alive by the packet; setters write
        there."""
        cdef MDPacket packet = MDPacket.__new__(MDPacket)
        packet.memory = memoryview(buffer).cast("B")
        cdef uint8_t[::1] data = packet.memory
        if data.shape[0] != CDP_MD_BYTES or <size_t>&data[0] % 8:
            raise InvalidRequest(f"a packet in {data.shape[0]} bytes of memory",
                                 f"give {CDP_MD_BYTES} bytes, aligned to 8")
        packet.p = <cdp_mdpacket *>&data[0]
        return packet

    def copy(self):
        """A packet of its own with the same bytes."""
        cdef MDPacket packet = MDPacket.__new__(MDPacket)
        packet.p[0] = self.p[0]
        return packet

    def check(self, uint64_t size_bytes):
        """Raises InvalidRequest unless this is a sound request to a LUN of `size_bytes`."""
        cdef cdp_status st
        check(cdp_mdpacket_check(self.p, size_bytes, &st), &st, f"LUN {self.p.lun}")

    def answer(self, uint8_t status=0, uint16_t sys_errno=0):
        """Make this request its own answer: RESPONSE set, status (enum cdp_code, 0: done) and errno filled in."""
        self.p.flags |= CDP_MD_RESPONSE
        self.p.status = status
        self.p.sys_errno = sys_errno

    # --- buffer groups

    def add_bg(self, uint32_t slot, uint32_t generation, uint32_t offset_bytes, uint32_t length_bytes):
        """Append a reference. Raises InvalidRequest for a fifth."""
        if self.p.n_bgs >= CDP_MD_BGS:
            raise InvalidRequest(f"more than {CDP_MD_BGS} buffer groups in a packet", "use fewer, larger ones")
        self.set_bg(self.p.n_bgs, slot, generation, offset_bytes, length_bytes)
        self.p.n_bgs += 1

    def set_bg(self, uint32_t i, uint32_t slot, uint32_t generation, uint32_t offset_bytes, uint32_t length_bytes):
        """Overwrite reference `i`, 0 to 3. Raises IndexError."""
        if i >= CDP_MD_BGS:
            raise IndexError(i)
        self.p.bg[i].slot = slot
        self.p.bg[i].generation = generation
        self.p.bg[i].offset_bytes = offset_bytes
        self.p.bg[i].length_bytes = length_bytes

    def bg(self, uint32_t i):
        """(slot, generation, offset_bytes, length_bytes) of reference `i`, 0 to 3. Raises IndexError."""
        if i >= CDP_MD_BGS:
            raise IndexError(i)
        return self.p.bg[i].slot, self.p.bg[i].generation, self.p.bg[i].offset_bytes, self.p.bg[i].length_bytes

    # --- fields, in the order of the struct

    @property
    def version(self):
        """Version of the layout."""
        return self.p.version

    @version.setter
    def version(self, uint8_t value):
        self.p.version = value

    @property
    def op(self):
        """What is asked for (Op)."""
        return self.p.op

    @op.setter
    def op(self, uint8_t value):
        self.p.op = value

    @property
    def flags(self):
        """A set of Flag."""
        return self.p.flags

    @flags.setter
    def flags(self, uint16_t value):
        self.p.flags = value

    @property
    def lun(self):
        """The volume's number, as the workload manager gave it."""
        return self.p.lun

    @lun.setter
    def lun(self, uint32_t value):
        self.p.lun = value

    @property
    def lba(self):
        """First sector of the range, 512 bytes each."""
        return self.p.lba

    @lba.setter
    def lba(self, uint64_t value):
        self.p.lba = value

    @property
    def length_bytes(self):
        """Length of the range."""
        return self.p.length_bytes

    @length_bytes.setter
    def length_bytes(self, uint64_t value):
        self.p.length_bytes = value

    @property
    def cookie(self):
        """The source's own number for the request; the answer brings it back."""
        return self.p.cookie

    @cookie.setter
    def cookie(self, uint64_t value):
        self.p.cookie = value

    @property
    def timestamp_ns(self):
        """When the source got the request, UTC."""
        return self.p.timestamp_ns

    @timestamp_ns.setter
    def timestamp_ns(self, uint64_t value):
        self.p.timestamp_ns = value

    @property
    def seq(self):
        """What the engine gave the record; 0: nothing was logged, or not yet."""
        return self.p.seq

    @seq.setter
    def seq(self, uint64_t value):
        self.p.seq = value

    @property
    def skew_bytes(self):
        """How far into sector lba the range begins, 0 to 511."""
        return self.p.skew_bytes

    @skew_bytes.setter
    def skew_bytes(self, uint16_t value):
        self.p.skew_bytes = value

    @property
    def n_bgs(self):
        """Buffer group references in use, at most 4."""
        return self.p.n_bgs

    @n_bgs.setter
    def n_bgs(self, uint8_t value):
        self.p.n_bgs = value

    @property
    def status(self):
        """Of an answer: 0, or the kind of failure (enum cdp_code in base/status.h)."""
        return self.p.status

    @status.setter
    def status(self, uint8_t value):
        self.p.status = value

    @property
    def sys_errno(self):
        """Of an answer that failed: the errno, or 0."""
        return self.p.sys_errno

    @sys_errno.setter
    def sys_errno(self, uint16_t value):
        self.p.sys_errno = value

    @property
    def bg_home(self):
        """Instance of the node whose pool the buffer groups are of."""
        return self.p.bg_home

    @bg_home.setter
    def bg_home(self, uint16_t value):
        self.p.bg_home = value

    @property
    def source_id(self):
        """Group id of the source, where the answer goes."""
        return self.p.source_id

    @source_id.setter
    def source_id(self, uint16_t value):
        self.p.source_id = value

    @property
    def source_instance(self):
        """Instance of the source."""
        return self.p.source_instance

    @source_instance.setter
    def source_instance(self, uint16_t value):
        self.p.source_instance = value

    @property
    def epoch(self):
        """Of the ownership that it was sent under; 0 where the platform has none."""
        return self.p.epoch

    @epoch.setter
    def epoch(self, uint32_t value):
        self.p.epoch = value

    # --- derived

    @property
    def offset_bytes(self):
        """lba and skew_bytes as one byte offset; OverflowError past 2^64 when set, wraps for a packet that check()
        refuses."""
        return cdp_mdpacket_offset(self.p)

    @offset_bytes.setter
    def offset_bytes(self, uint64_t value):
        self.p.lba = value // CDP_MD_SECTOR
        self.p.skew_bytes = value % CDP_MD_SECTOR

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.p, CDP_MD_BYTES, 0, flags)

    def __bytes__(self):
        return (<const char *>self.p)[:CDP_MD_BYTES]

    def __eq__(self, other):
        if not isinstance(other, MDPacket):
            return NotImplemented
        return memcmp(self.p, (<MDPacket>other).p, CDP_MD_BYTES) == 0

    __hash__ = None     # it can change

    def __repr__(self):
        try:
            op = Op(self.p.op).name
        except ValueError:
            op = f"op {self.p.op}"
        text = f"<MDPacket {op} lun {self.p.lun} [{self.offset_bytes}, +{self.p.length_bytes})"
        text += f" cookie {self.p.cookie:#x}"
        if self.p.flags:
            text += f" {Flag(self.p.flags)!r}"
        if self.p.seq:
            text += f" #{self.p.seq}"
        if self.p.status:
            text += f" status {self.p.status} errno {self.p.sys_errno}"
        return text + ">"
