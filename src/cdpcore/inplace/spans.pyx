"""What a change puts on the disk, and what was there: ranges of sectors with their content.

Plain functions on the caller's arrays. Threading: any thread, no GIL.
"""
from libc.string cimport memcmp
from cdpcore.base.format cimport CDP_BLOCK, CDP_KIND_TRIM, CDP_LOC_ZERO, CDP_SECTOR
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_EXTENT_HOLE, CDP_EXTENT_ZERO
from cdpcore.base.zeros cimport cdp_is_zero
from cdpcore.log.record cimport MAX_PARTS, SUMMED, set_data, set_part


cdef void set_span(span *s, uint64_t start, uint64_t end, uint32_t kind, const uint8_t *data) noexcept nogil:
    s.start = start
    s.end = end
    s.kind = kind
    s.data = data


cdef uint64_t data_bytes(const span *s, uint32_t n) noexcept nogil:
    cdef uint64_t bytes = 0
    cdef uint32_t i
    for i in range(n):
        bytes += (s[i].end - s[i].start) * CDP_SECTOR if s[i].kind == CDP_EXTENT_DATA else 0
    return bytes


cdef uint32_t zeros_of(uint16_t record_kind) noexcept nogil:
    return CDP_EXTENT_HOLE if record_kind == CDP_KIND_TRIM else CDP_EXTENT_ZERO


cdef bint is_same(const span *s, uint32_t n, const uint8_t *old) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t size
    for i in range(n):
        size = (s[i].end - s[i].start) * CDP_SECTOR
        if s[i].kind != CDP_EXTENT_DATA or memcmp(s[i].data, old, size) != 0:
            return False
        old += size
    return True


cdef uint32_t split(const uint8_t *old, uint64_t start, uint64_t end, uint64_t part_bytes, uint16_t kind,
                    uint16_t flags, part *out, uint32_t *sums) noexcept nogil:
    """Blocks of zeros need no data, while there is room to name them apart."""
    cdef uint64_t at = start, stop, most = part_bytes // CDP_SECTOR
    cdef uint32_t n = 0, i, bytes, summed = 0
    cdef const uint8_t *p
    cdef bint zero
    while at < end:
        stop = min(end, (at // (CDP_BLOCK // CDP_SECTOR) + 1) * (CDP_BLOCK // CDP_SECTOR))
        p = old + (at - start) * CDP_SECTOR
        # Two more parts, and enough for all the rest as data, must fit.
        zero = (n and out[n - 1].data == NULL) or n + 3 + (end - at) // most <= MAX_PARTS
        zero = zero and cdp_is_zero(p, (stop - at) * CDP_SECTOR)
        if n and zero == (out[n - 1].data == NULL) and (zero or at - out[n - 1].start < most):
            if not zero:
                stop = min(stop, out[n - 1].start + most)       # to the sector: short parts would be too many
        else:
            out[n].start = at
            out[n].data = NULL if zero else p
            n += 1
        out[n - 1].end = stop
        at = stop
    for i in range(n):
        bytes = <uint32_t>((out[i].end - out[i].start) * CDP_SECTOR) if out[i].data != NULL else 0
        if bytes and summed + bytes // CDP_BLOCK <= SUMMED:
            set_data(&out[i], kind, flags, out[i].start, out[i].data, bytes, sums + summed)
            summed += bytes // CDP_BLOCK
        else:
            set_part(&out[i], kind, flags, out[i].start, out[i].end, out[i].data, bytes, 0 if bytes else CDP_LOC_ZERO)
    return n
