"""One NBD connection's transmission phase (see nbd.pyx), and the C declarations that it needs."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_extent, cdp_target
from cdpcore.nbd.nbd_wire cimport cdp_nbd_request, cdp_nbd_rules


# Written by the connection's thread alone; read by anybody, each word whole but not all of one moment.
cdef struct nbd_counters:
    uint64_t requests        # answered or to be answered; not DISC
    uint64_t errors          # answered with an error
    uint64_t reads
    uint64_t writes
    uint64_t zeroes          # WRITE_ZEROES and TRIM
    uint64_t flushes         # FLUSH requests; many may share one flush of the target
    uint64_t read_bytes
    uint64_t written_bytes
    uint64_t zeroed_bytes
    uint64_t received_bytes  # on the socket
    uint64_t sent_bytes
    uint64_t batches         # sends: requests / batches says how well replies are gathered

cdef enum:
    MAP_BATCH = 128          # extents a map() call
    PENDING_MAX = 512        # replies waiting for one flush

cdef class Connection:
    # Constant after open.
    cdef object sock         # keeps fd open
    cdef object capsule      # keeps *target alive
    cdef const cdp_target *target
    cdef cdp_nbd_rules rules
    cdef bint own_fua               # FUA never becomes a flush that others share
    cdef int fd
    cdef uint32_t context_id
    cdef uint8_t *rx         # RANGE_BYTES of address space
    cdef uint8_t *tx
    # The connection's thread only.
    cdef uint64_t rx_begin, rx_end   # bytes received and not yet parsed
    cdef uint64_t need_bytes         # the request at rx_begin is complete with so many
    cdef uint64_t tx_end             # bytes of replies gathered
    cdef uint64_t high_bytes         # how far rx or tx were touched since pages were last given back
    cdef uint64_t round_bytes        # ... and in this round
    cdef uint64_t drain_bytes        # payload of a refused write still to be thrown away, then `drained` is answered
    cdef cdp_nbd_request drained
    cdef uint32_t drain_error
    cdef const char *drain_why
    cdef uint32_t pending            # replies that wait for a flush
    cdef uint32_t pending_at[PENDING_MAX]  # where in tx they lie
    cdef cdp_extent extents[MAP_BATCH]
    # Any thread, atomic.
    cdef nbd_counters counts
    cdef int stopping
    cdef int started

    cdef int run(self) noexcept nogil
    cdef int process(self) noexcept nogil
    cdef int fill(self) noexcept nogil
    cdef void foresee(self) noexcept nogil
    cdef int send(self) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef void execute(self, const cdp_nbd_request *r, const uint8_t *payload, bint last) noexcept nogil
    cdef void refuse(self, const cdp_nbd_request *r, uint32_t error, const char *why) noexcept nogil
    cdef void finish(self, const cdp_nbd_request *r, int rc, const cdp_status *st, bint flush_due) noexcept nogil
    cdef void read(self, const cdp_nbd_request *r) noexcept nogil
    cdef int read_sparse(self, const cdp_nbd_request *r) noexcept nogil
    cdef void cache(self, const cdp_nbd_request *r) noexcept nogil
    cdef void block_status(self, const cdp_nbd_request *r) noexcept nogil
    cdef void give_back(self) noexcept nogil
