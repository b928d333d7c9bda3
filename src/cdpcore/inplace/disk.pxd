"""The disk that a before-image volume protects: one file or block device, open for the volume's life."""
from libc.stdint cimport uint8_t, uint64_t
from cdpcore.base.stages cimport Stages
from cdpcore.base.status cimport cdp_status
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os
from cdpcore.volume.extents cimport data_place, extents


cdef class Disk:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef int fd
    cdef bytes path
    cdef const char *path_text      # in `path`
    cdef Stages stages              # the volume's
    cdef uint64_t size_bytes        # when it was opened

    # any thread
    cdef bint cut                   # was found shorter: made as long again it has lost what was there
    cdef data_place data            # where block status found data

    cpdef close(self)
    # Offsets and lengths in bytes, inside the disk. All return CDP_OK or the status; writes are durable after sync().
    cdef int read(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, cdp_status *st) noexcept nogil
    cdef int write(self, const uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    # Zeros; `hole`: punched out where the file system can.
    cdef int zero(self, uint64_t off, uint64_t n, bint hole, cdp_status *st) noexcept nogil
    cdef int sync(self, cdp_status *st) noexcept nogil
    # What was synced is on the disk that the path names; else CDP_UNAVAILABLE, which a later call may take back.
    cdef int still_there(self, cdp_status *st) noexcept nogil
    cdef int was_cut(self, cdp_status *st) noexcept nogil   # fails
    # [off, end) follows in `out`; also FULL, see volume/extents.pxd.
    cdef int map(self, uint64_t off, uint64_t end, extents *out, cdp_status *st) noexcept nogil
    # *data: where data begins at or after `off`, or the largest number where none does.
    cdef int next_data(self, uint64_t off, uint64_t *data, cdp_status *st) noexcept nogil
    # The range is about to be read: the system may begin to.
    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil
