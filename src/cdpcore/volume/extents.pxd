"""Block status while it is put together: what a stretch of a disk is, in a list with an end."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_extent
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.system.os_table cimport cdp_os


cdef enum:
    FULL = -1               # the list has no room for what follows: no error, the caller of map() asks again from there


# Extents in bytes, one behind the other; neighbours are of different kinds.
cdef struct extents:
    cdp_extent *at
    uint32_t cap, n
    uint64_t steps, seeks   # what was looked up for them: answers of the index, and of files


# Where data was found last in a file, so that a long stretch of it under many pieces is not looked for again for each
# of them: the system walks a file's own extents for that, to the end of the stretch. Any thread.
cdef struct data_place:
    pthread_mutex_t mutex
    uint64_t start, end
    uint64_t changes        # how often forget_data() was called


cdef void init_place(data_place *place) noexcept nogil
cdef void free_place(data_place *place) noexcept nogil
# There may be holes now that were none.
cdef void forget_data(data_place *place) noexcept nogil
# [a, b) follows. CDP_OK, or FULL.
cdef int add_extent(extents *out, uint64_t a, uint64_t b, uint32_t kind) noexcept nogil
# What a version's data is: an enum cdp_extent_kind.
cdef uint32_t kind_of(uint64_t loc) noexcept nogil
# [a, b) of a file follows, by its holes; fd < 0: it is one. CDP_OK, FULL, or the status.
cdef int add_file(extents *out, const cdp_os *os, int fd, data_place *place, uint64_t a, uint64_t b,
                  cdp_status *st) noexcept nogil
# Everything from byte `a` on is forgotten.
cdef void cut_extents(extents *out, uint64_t a) noexcept nogil
