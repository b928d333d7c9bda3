"""Read handles of segment files, bounded."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef struct open_segment_file:
    uint64_t state          # atomic: number of the segment << 32 | pins; 0: empty
    int fd                  # stays as it is while there is a pin


cdef class SegmentFds:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef bytes directory
    cdef const char *directory_c
    cdef uint32_t n_slots
    cdef open_segment_file *slots   # segment N lives in slot N mod n_slots, or is open for one call only
    # held by who opens and closes files
    cdef pthread_mutex_t mutex

    cdef uint32_t broken            # BREAK_... bits

    # No lock where the file is open and kept.
    cdef int acquire(self, uint32_t number, int *fd, bint *cached, cdp_status *st) noexcept nogil
    cdef void release(self, uint32_t number, int fd, bint cached) noexcept nogil

    # internal: pinned, and its handle in *fd; False: another segment's file is there, or none
    cdef bint pin(self, open_segment_file *s, uint32_t number, int *fd) noexcept nogil
    # internal: mutex held; nobody has pinned the file in the slot, and nobody will: the slot is empty
    cdef bint retire(self, open_segment_file *s) noexcept nogil
