"""The data of a record: from the frame in memory that still has it, else from its segment file."""
from libc.stdint cimport uint8_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.log.damage cimport Damage
from cdpcore.log.log cimport Log
from cdpcore.log.segment_fds cimport SegmentFds
from cdpcore.log.sums_cache cimport SegmentSums
from cdpcore.system.os_table cimport cdp_os


cdef class LogReader:
    # constant after construction
    cdef Log log
    cdef SegmentFds files
    cdef SegmentSums sums
    cdef Damage damage
    cdef const cdp_os *table

    cdef bint unchecked             # see break_rule

    # n bytes of the data at `loc` (of a version, see base/format.h), from its byte `skip` on. What comes from a file is
    # checked: CDP_CORRUPT, and never a wrong byte.
    cdef int read(self, uint8_t *buf, uint64_t loc, uint64_t skip, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil
