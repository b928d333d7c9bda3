"""A record on its way into the log: its descriptors, and the part of a segment that it may use."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.format cimport CDP_SECTOR
from cdpcore.base.crc32c cimport cdp_crc32c, cdp_crc32c_blocks

cdef enum:
    MAX_PARTS = 32          # descriptors of one record
    SUMMED = 1024           # blocks of a record whose checksums are kept; those of others are computed with the frame


# One descriptor of a record.
cdef struct part:
    uint64_t start, end     # sectors
    const uint8_t *data     # copied into the log; NULL: none
    uint32_t data_bytes     # a multiple of 512, at most a quarter of a slot; 0: none
    uint32_t crc            # CRC-32C of the data; 0: none
    uint32_t *sums          # that of each of its whole blocks, where it is known; else NULL
    uint16_t kind           # enum cdp_kind
    uint16_t flags          # enum cdp_record_flags; the log sets MORE
    uint64_t loc            # what the index says of the range; the log sets it where there is data; 0: not indexed


# How much of the open segment a record may use. A full device must not stop what frees space or undoes a restore, so
# writes leave a sixteenth of a segment to events, and events leave the last of it to what frees space.
cdef enum room:
    ROOM_WRITE              # a write, zero or trim
    ROOM_EVENT              # a bookmark or restore
    ROOM_FREEING            # a destructive restore; a flush, of which there is one for each of the others


# Range [start, end), `n` bytes of data (0: none) with their checksum.
cdef inline void set_part(part *p, uint16_t kind, uint16_t flags, uint64_t start, uint64_t end, const uint8_t *data,
                          uint32_t n, uint64_t loc) noexcept nogil:
    p.start = start
    p.end = end
    p.data = data
    p.data_bytes = n
    p.crc = cdp_crc32c(0, data, n) if n else 0
    p.sums = NULL
    p.kind = kind
    p.flags = flags
    p.loc = loc


# The same of a write, with the checksums of its blocks, for which there is room at `sums`.
cdef inline void set_data(part *p, uint16_t kind, uint16_t flags, uint64_t start, const uint8_t *data, uint32_t n,
                          uint32_t *sums) noexcept nogil:
    p.start = start
    p.end = start + n // CDP_SECTOR
    p.data = data
    p.data_bytes = n
    p.crc = cdp_crc32c_blocks(data, n, sums)
    p.sums = sums
    p.kind = kind
    p.flags = flags
    p.loc = 0
