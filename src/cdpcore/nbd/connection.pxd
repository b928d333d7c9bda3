"""An NBD connection to a disk in this process (see connection.pyx)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_extent, cdp_target
from cdpcore.nbd.loop cimport RequestLoop
from cdpcore.nbd.nbd_wire cimport cdp_nbd_request

cdef enum:
    MAP_BATCH = 128          # extents a map() call
    PENDING_MAX = 512        # replies waiting for one flush

cdef const cdp_target *target_of(object capsule) except NULL


cdef class Connection(RequestLoop):
    # Constant after construction.
    cdef object capsule      # keeps *target alive
    cdef const cdp_target *target
    cdef bint own_fua        # FUA never becomes a flush that others share
    # The connection's thread only.
    cdef uint64_t high_bytes         # how far rx or `out` were touched since pages were last given back
    cdef uint64_t round_bytes        # ... and in this round
    cdef uint32_t pending            # replies that wait for a flush
    cdef uint32_t pending_at[PENDING_MAX]  # where in `out` they lie
    cdef cdp_extent extents[MAP_BATCH]

    cdef void foresee(self) noexcept nogil
    cdef void give_back(self) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef void reply(self, const cdp_nbd_request *r, int rc, const cdp_status *st, bint flush_due) noexcept nogil
    cdef void read(self, const cdp_nbd_request *r) noexcept nogil
    cdef int read_sparse(self, const cdp_nbd_request *r) noexcept nogil
    cdef void cache(self, const cdp_nbd_request *r) noexcept nogil
    cdef void block_status(self, const cdp_nbd_request *r) noexcept nogil
