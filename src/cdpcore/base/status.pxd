"""How a nogil function reports failure (base/status.h)."""
from libc.stdint cimport int32_t, int64_t, uint64_t


cdef extern from "base/status.h" nogil:
    enum:
        CDP_WOULD_WAIT
        CDP_OK
        CDP_INVALID
        CDP_NOTFOUND
        CDP_NOSPACE
        CDP_CORRUPT
        CDP_UNAVAILABLE
        CDP_CLOSED
        CDP_REFUSED

    ctypedef struct cdp_status:
        int32_t code
        int32_t sys_errno
        uint64_t offset
        uint64_t expected
        uint64_t actual
        const char *where

    int cdp_fail(cdp_status *st, int code, int sys_errno, uint64_t offset, const char *where)
    int cdp_fail_os(cdp_status *st, int64_t neg_errno, uint64_t offset, const char *where)
