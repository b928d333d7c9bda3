"""A walk over the extents of a run (index/index_impl.h)."""
from libc.stdint cimport uint64_t
from cdpcore.base.format cimport cdp_run_version
from cdpcore.base.status cimport cdp_status
from cdpcore.index.index cimport cdp_run


cdef extern from "index/index_impl.h" nogil:
    ctypedef struct cdp_run_cursor:
        uint64_t start
        uint64_t end
        const cdp_run_version *versions
        uint64_t n_versions
    void cdp_run_cursor_init(cdp_run_cursor *c, const cdp_run *r)
    int cdp_run_cursor_next(cdp_run_cursor *c, cdp_status *st)
