"""The owner classes of inspect.pyx. The engine cimports the C names (index.pxd) and owns its trees and runs itself.

The OS table passes through as `const void *`, so that this module and the one that declares cdp_os need not know each
other.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from cdpcore.index.index cimport cdp_run, cdp_tree


# The extent tree of index.h, for one thread at a time.
cdef class ExtentTree:
    # constant after construction
    cdef cdp_tree *tree
    # guarded by the GIL
    cdef uint64_t last_seq
    cdef uint32_t readers  # operations that read it without the GIL: nothing may be inserted meanwhile
    cdef int idle(self) except -1


# A run file, for any number of threads.
cdef class Run:
    # constant after construction
    cdef readonly object path
    cdef object os
    # guarded by the GIL; freed when closed and no operation runs
    cdef cdp_run *run
    cdef uint32_t users
    cdef bint closing
    cdef cdp_run *enter(self) except NULL
    cdef void leave(self) noexcept
