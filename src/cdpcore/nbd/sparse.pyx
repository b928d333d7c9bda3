"""Replies to reads that leave out the holes of a target.

Plain functions on the caller's memory. Threading: any thread that may call the target, no GIL.
"""
from cdpcore.base.status cimport CDP_OK
from cdpcore.base.target cimport CDP_EXTENT_HOLE, CDP_EXTENT_ZERO, cdp_extent
from cdpcore.nbd.nbd_wire cimport (CDP_NBD_CHUNK_DONE, CDP_NBD_DATA_BYTES, cdp_nbd_errno, cdp_nbd_put_data,
                                   cdp_nbd_put_hole)

cdef enum:
    GRAIN_BYTES = 4096      # a hole must be this long to be sent as one


cdef inline bint is_zeros(uint32_t kind) noexcept nogil:
    return kind == CDP_EXTENT_ZERO or kind == CDP_EXTENT_HOLE


cdef uint32_t put_sparse(const cdp_target *t, const cdp_nbd_request *r, uint8_t *p, bint wait, uint64_t *n,
                         const char **why) noexcept nogil:
    cdef cdp_status st
    cdef cdp_extent e[MAP_BATCH]
    cdef uint8_t *at = p
    cdef uint64_t end = r.offset + r.length, pos = r.offset, sent = r.offset, zero_from, stop
    cdef uint32_t i = 0, found = 0
    cdef bint done = False
    cdef int rc
    n[0] = 0
    if t.map(t.ctx, r.offset, r.length, e, MAP_BATCH, &found, &st) != CDP_OK:
        return 0  # then pread says what is wrong
    while not done:
        # The next run of zeros [zero_from, pos); past the known extents all counts as data.
        while i < found and e[i].offset == pos and not is_zeros(e[i].kind) and e[i].length <= end - pos:
            pos += e[i].length
            i += 1
        zero_from = pos
        while i < found and e[i].offset == pos and is_zeros(e[i].kind) and e[i].length <= end - pos:
            pos += e[i].length
            i += 1
        if pos - zero_from < GRAIN_BYTES and pos != zero_from:
            continue
        done = pos == zero_from
        stop = end if done else zero_from
        if done and sent == r.offset:
            return 0
        if sent < stop:
            rc = pread(t, at + CDP_NBD_DATA_BYTES, sent, stop - sent, wait, &st)
            if rc == CDP_WOULD_WAIT:
                return WAITS
            if rc != CDP_OK:
                why[0] = st.where
                return cdp_nbd_errno(rc, st.sys_errno)
            at += cdp_nbd_put_data(at, CDP_NBD_CHUNK_DONE if stop == end else 0, r.cookie, sent,
                                   <uint32_t>(stop - sent)) + (stop - sent)
        if not done:
            at += cdp_nbd_put_hole(at, CDP_NBD_CHUNK_DONE if pos == end else 0, r.cookie, zero_from,
                                   <uint32_t>(pos - zero_from))
        sent = pos if not done else end
    n[0] = <uint64_t>(at - p)
    return 0
