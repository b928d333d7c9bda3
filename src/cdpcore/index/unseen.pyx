"""Which data of the log a moment does not show: the look-up, the other way round.

Given versions of the index and what of them one moment shows, the rest is data that this moment does not need. Whether
another one does is for the caller to know (cdp.store.unseen).

Threading: any thread; the GIL is released for the look-ups.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, CDP_SECTOR, cdp_loc, cdp_loc_is_data, cdp_record_desc
from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.index.versions cimport ALL, Versions, drop, moment, pieces
from cdpcore.index.view cimport View
from cdpcore.base.errors import InvalidRequest


cdef struct ranges:
    uint64_t *at            # begin, end, begin, end ...: bytes of the file, ascending, not touching
    size_t n, cap           # numbers


cdef int add(ranges *r, uint64_t begin, uint64_t end) noexcept nogil:
    """[begin, end) of the file, behind all before; 0: no memory."""
    cdef void *grown
    if begin == end:
        return 1
    if r.n and r.at[r.n - 1] == begin:
        r.at[r.n - 1] = end
        return 1
    if r.n + 2 > r.cap:
        r.cap = 2 * r.cap + 1024
        grown = realloc(r.at, r.cap * sizeof(uint64_t))
        if grown == NULL:
            return 0
        r.at = <uint64_t *>grown
    r.at[r.n] = begin
    r.at[r.n + 1] = end
    r.n += 2
    return 1


def not_shown(Versions versions not None, View view not None, uint32_t segment, const uint8_t[::1] descriptors not None,
              bint before):
    """[(offset, length), ...] of the file of `segment`, in bytes, whole blocks, ascending: data of these descriptors
    that `view` does not show. descriptors: packed cdp_record_desc, of one segment, in its order; data that lies in one
    block with other descriptors' is only among it if theirs is. before: they are before-images. Raises Corruption where
    a run is damaged. 1 to 2 us a descriptor."""
    cdef size_t n = <size_t>descriptors.shape[0] // sizeof(cdp_record_desc), i
    cdef const cdp_record_desc *d
    cdef ranges found
    cdef pieces p
    cdef moment m
    cdef cdp_status st
    cdef uint64_t k, at, first, own, a, b
    cdef int rc = CDP_OK
    cdef bint memory = True
    if n * sizeof(cdp_record_desc) != <size_t>descriptors.shape[0]:
        raise InvalidRequest("these bytes are not descriptors")
    found.at = NULL
    found.n = found.cap = 0
    try:
        with nogil:
            for i in range(n):
                d = <const cdp_record_desc *>&descriptors[0] + i
                if d.data_bytes == 0:
                    continue
                first = <uint64_t>d.data_sector * CDP_SECTOR
                own = cdp_loc(segment, first)
                if before:
                    rc = versions.resolve_before(&view.v, d.start, d.start + d.sectors, ALL, &p, &m, &st)
                else:
                    rc = versions.resolve(&view.v, d.start, d.start + d.sectors, ALL, &p, &st)
                if rc != CDP_OK:
                    break
                at = d.start                    # up to there it is known what is shown
                for k in range(p.n):
                    # A piece that lies in its data shows it; at the place that it has there.
                    if cdp_loc_is_data(p.at[k].loc) and p.at[k].loc == own + (p.at[k].start - d.start):
                        a = first + (at - d.start) * CDP_SECTOR
                        b = first + (p.at[k].start - d.start) * CDP_SECTOR
                        memory = memory and add(&found, a, b)
                        at = p.at[k].end
                drop(&p)
                memory = memory and add(&found, first + (at - d.start) * CDP_SECTOR,
                                        first + d.sectors * CDP_SECTOR)
                if not memory:
                    break
        check(rc, &st, None)
        if not memory:
            raise MemoryError()
        out = []
        for i in range(0, found.n, 2):
            a = (found.at[i] + CDP_BLOCK - 1) // CDP_BLOCK * CDP_BLOCK
            b = found.at[i + 1] // CDP_BLOCK * CDP_BLOCK
            if a < b:
                out.append((a, b - a))
        return out
    finally:
        free(found.at)
