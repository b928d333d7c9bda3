"""Replies to reads that leave out the holes of a target."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from cdpcore.base.status cimport CDP_WOULD_WAIT, cdp_status
from cdpcore.base.target cimport cdp_target
from cdpcore.nbd.nbd_wire cimport cdp_nbd_request

cdef enum:
    MAP_BATCH = 128         # extents a map() call
    WAITS = 0x7FFFFFFF      # in place of an error of NBD: without `wait`, it would have to wait for a device


# CDP_WOULD_WAIT only without `wait`.
cdef inline int pread(const cdp_target *t, uint8_t *p, uint64_t off, uint64_t n, bint wait,
                      cdp_status *st) noexcept nogil:
    st.sys_errno = 0
    st.where = NULL
    if wait:
        return t.pread(t.ctx, p, off, n, st)
    return t.pread_now(t.ctx, p, off, n, st)


# Build the reply to a READ at `p`, its holes left out. n: its length; 0 where there are no holes worth it. Returns 0,
# an error of NBD, or WAITS.
cdef uint32_t put_sparse(const cdp_target *t, const cdp_nbd_request *r, uint8_t *p, bint wait, uint64_t *n,
                         const char **why) noexcept nogil
