"""What a change puts on the disk, and what was there: ranges of sectors with their content."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.log.record cimport part


# New content of a range.
cdef struct span:
    uint64_t start, end     # sectors
    uint32_t kind           # enum cdp_extent_kind
    const uint8_t *data     # where DATA


cdef void set_span(span *s, uint64_t start, uint64_t end, uint32_t kind, const uint8_t *data) noexcept nogil
# Bytes of data in them.
cdef uint64_t data_bytes(const span *s, uint32_t n) noexcept nogil
# What a ZERO or TRIM record makes of a range: an enum cdp_extent_kind.
cdef uint32_t zeros_of(uint16_t record_kind) noexcept nogil
# Whether the new content equals the old. Turning data into a hole is a change even where it read as zeros.
cdef bint is_same(const span *s, uint32_t n, const uint8_t *old) noexcept nogil
# Old content (at most MAX_PARTS times part_bytes) as at most MAX_PARTS parts of a record, with their checksums (`sums`:
# room for SUMMED); returns how many.
cdef uint32_t split(const uint8_t *old, uint64_t start, uint64_t end, uint64_t part_bytes, uint16_t kind,
                    uint16_t flags, part *out, uint32_t *sums) noexcept nogil
