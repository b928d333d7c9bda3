"""Block status while it is put together: what a stretch of a disk is, in a list with an end.

Invariant: extents lie one behind the other, none is empty, neighbours are of different kinds; so a list that is full
still says the truth up to where it reaches.

Threading: a list is its caller's; any thread, no GIL.
"""
from cdpcore.base.format cimport CDP_LOC_HOLE, CDP_LOC_UNKNOWN, cdp_loc_is_data
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_EXTENT_HOLE, CDP_EXTENT_UNKNOWN, CDP_EXTENT_ZERO
from cdpcore.base.thread cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
                                  pthread_mutex_unlock)


cdef int add_extent(extents *out, uint64_t a, uint64_t b, uint32_t kind) noexcept nogil:
    if out.n and out.at[out.n - 1].kind == kind:
        out.at[out.n - 1].length += b - a
        return CDP_OK
    if out.n == out.cap:
        return FULL
    out.at[out.n].offset = a
    out.at[out.n].length = b - a
    out.at[out.n].kind = kind
    out.n += 1
    return CDP_OK


cdef uint32_t kind_of(uint64_t loc) noexcept nogil:
    if cdp_loc_is_data(loc):
        return CDP_EXTENT_DATA
    if loc == CDP_LOC_UNKNOWN:
        return CDP_EXTENT_UNKNOWN
    return CDP_EXTENT_HOLE if loc == CDP_LOC_HOLE else CDP_EXTENT_ZERO


cdef void init_place(data_place *place) noexcept nogil:
    pthread_mutex_init(&place.mutex, NULL)
    place.start = place.end = place.changes = 0


cdef void free_place(data_place *place) noexcept nogil:
    pthread_mutex_destroy(&place.mutex)


cdef void forget_data(data_place *place) noexcept nogil:
    pthread_mutex_lock(&place.mutex)
    place.start = place.end = 0
    place.changes += 1
    pthread_mutex_unlock(&place.mutex)


cdef int find_data(const cdp_os *os, int fd, data_place *place, uint64_t a, uint64_t *start, uint64_t *end,
                   uint64_t *seeks) noexcept nogil:
    """As next_data() of the OS table."""
    cdef uint64_t changes
    cdef bint known
    cdef int rc
    pthread_mutex_lock(&place.mutex)
    known = place.start <= a < place.end
    start[0] = a
    end[0] = place.end
    changes = place.changes
    pthread_mutex_unlock(&place.mutex)
    if known:
        return 1
    seeks[0] += 1
    rc = os.next_data(os.ctx, fd, a, start, end)
    if rc > 0:
        pthread_mutex_lock(&place.mutex)
        if place.changes == changes:
            place.start = start[0]
            place.end = end[0]
        pthread_mutex_unlock(&place.mutex)
    return rc


cdef int add_file(extents *out, const cdp_os *os, int fd, data_place *place, uint64_t a, uint64_t b,
                  cdp_status *st) noexcept nogil:
    cdef uint64_t start = b, end
    cdef int rc = CDP_OK
    while rc == CDP_OK and a < b:
        if fd >= 0:
            rc = find_data(os, fd, place, a, &start, &end, &out.seeks)
            if rc < 0:
                return cdp_fail_os(st, rc, a, b"looking for data in a disk's file")
        if rc == 0 or start >= b:       # no data from here on
            start = end = b
        rc = CDP_OK
        if a < start:
            rc = add_extent(out, a, start, CDP_EXTENT_HOLE)
        a = min(end, b)
        if rc == CDP_OK and start < a:
            rc = add_extent(out, start, a, CDP_EXTENT_DATA)
    return rc


cdef void cut_extents(extents *out, uint64_t a) noexcept nogil:
    while out.n and out.at[out.n - 1].offset >= a:
        out.n -= 1
    if out.n:
        out.at[out.n - 1].length = min(out.at[out.n - 1].length, a - out.at[out.n - 1].offset)
