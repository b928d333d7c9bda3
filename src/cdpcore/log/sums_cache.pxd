"""The checksums of the blocks of sealed segments: a bounded cache of the pages of their tables."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.format cimport cdp_sums_header
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.log.sums_pages cimport SumsPages
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef extern from "log/segment_sums.h" nogil:
    enum:
        CDP_SUMS_TABLE
        CDP_SUMS_FRAMES
    int cdp_segment_sums(const cdp_os *os, int fd, const char *beside, uint32_t number, uint64_t page, uint32_t *sums,
                         int *source, cdp_status *st)


cdef class SegmentSums:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef bytes directory
    cdef const char *directory_c
    cdef SumsPages pages            # of segments by their numbers, of the base as 0; found without a lock
    # guarded by mutex; what changes `pages` holds it, too
    cdef pthread_mutex_t mutex
    cdef int base_fd                # the table of the base; -1: there is none
    cdef cdp_sums_header base
    cdef readonly uint64_t loaded, from_frames      # counters: pages

    # Of blocks [block, block + n) of the sealed segment `number`, open as fd; or of the base, as 0. CDP_WOULD_WAIT
    # without `wait`, where they are not in memory.
    cdef int find(self, uint32_t number, int fd, uint64_t block, uint32_t n, uint32_t *out, bint wait,
                  cdp_status *st) noexcept nogil
    # They will be asked for soon.
    cdef void fetch(self, uint32_t number, uint64_t block) noexcept nogil
    # internal: the page is from now on in memory, where there is room
    cdef int load(self, uint32_t number, int fd, uint64_t page, uint32_t first, uint32_t n, uint32_t *out,
                  cdp_status *st) noexcept nogil
    # The table of the base is from now on what fd, which this object closes, has; -1: none. False: it is not valid.
    cdef bint set_base(self, int fd) noexcept nogil
