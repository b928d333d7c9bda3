"""What announced changes will overwrite, read for many of them at once."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.index.versions cimport moment
from cdpcore.inplace.reader cimport DiskReader
from cdpcore.system.io_queue cimport cdp_ioq
from cdpcore.system.os cimport Os


cdef enum:
    RANGES = 64                 # announced at a time
    BATCH_BYTES = 256 << 10     # together; what the NBD loop receives at once


cdef struct announced:
    uint64_t start, end         # sectors
    uint64_t generation         # of the lineage, when it was read ...
    moment m                    # ... and the last record then
    uint8_t *data               # NULL: it could not be read so


cdef class OldContent:
    # constant after construction
    cdef Os os
    cdef DiskReader reader
    cdef uint32_t broken            # see break_rule

    # guarded by mutex
    cdef pthread_mutex_t mutex
    cdef announced ranges[RANGES]   # the first n_read are read; the others are announced only
    cdef uint32_t n_read, n
    cdef uint64_t bytes             # of those that are announced only
    cdef uint8_t *data              # BATCH_BYTES; NULL before the first batch
    cdef cdp_ioq *queue
    cdef uint64_t stream_end, stream_bytes, ahead_end   # bytes: see expect()
    cdef uint64_t n_taken

    # A change of [off, off + n), in bytes, comes soon.
    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil
    # The range, in sectors, is held: `buf` is what the disk holds there, with Pending; False: it has to be read.
    cdef bint take(self, uint8_t *buf, uint64_t start, uint64_t end) noexcept nogil
    # --- internal, mutex held
    cdef bint is_stream(self, uint64_t off, uint64_t n) noexcept nogil
    cdef announced *find(self, uint64_t start, uint64_t end) noexcept nogil
    cdef void read_together(self) noexcept nogil
    cdef bint look(self, announced *a) noexcept nogil
