"""The memory that the connections of a server share for large requests, and its bound (nbd/nbd_memory.h)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "nbd/nbd_memory.h" nogil:
    ctypedef struct nbd_claim:
        int fd, bell
        const uint64_t *received_bytes
        const uint64_t *sent_bytes
        uint64_t held_bytes
        int granted
        int cut
    ctypedef struct nbd_memory:
        uint64_t limit_bytes, used_bytes, most_bytes, waits, cuts
        uint32_t waiting
    uint64_t NBD_MEMORY_LEAST_BYTES
    void nbd_memory_init(nbd_memory *m, uint64_t limit_bytes, uint32_t pace_ms)
    void nbd_memory_destroy(nbd_memory *m)
    uint32_t nbd_memory_waiting(const nbd_memory *m)
    int nbd_claim_flag(const int *p)
    void nbd_claim_on_client(nbd_claim *c, int on)
    int nbd_memory_try(nbd_memory *m, nbd_claim *c, uint64_t n)
    void nbd_memory_force(nbd_memory *m, nbd_claim *c, uint64_t n)
    void nbd_memory_give(nbd_memory *m, nbd_claim *c, uint64_t n)
    void nbd_memory_queue(nbd_memory *m, nbd_claim *c, uint64_t n)
    int nbd_memory_leave(nbd_memory *m, nbd_claim *c)
    int nbd_memory_doze(nbd_memory *m, nbd_claim *c, int bell)
    void nbd_memory_hush(nbd_memory *m, int bell)


cdef class ConnectionMemory:
    cdef nbd_memory m       # nbd/nbd_memory.h says what guards it


cdef class Ranges:
    # Constant after construction.
    cdef ConnectionMemory shared     # keeps *memory
    cdef nbd_memory *memory          # NULL: as much as it likes
    cdef uint64_t free_bytes         # of each range, that are always the connection's
    cdef uint64_t step_bytes         # claimed at a time
    cdef uint8_t *rx                 # received into ...
    cdef uint64_t rx_bytes, rx_soft  # ... used from the front again beyond rx_soft, where nothing parked forbids it
    cdef uint8_t *out                # replies built on the spot ...
    cdef uint64_t out_bytes
    cdef uint8_t *tx                 # room for the replies of parked requests ...
    cdef uint64_t tx_bytes, tx_soft
    # The connection's thread only; of the claim, what nbd/nbd_memory.h says.
    cdef nbd_claim claim
    cdef uint64_t rx_granted, out_granted, tx_granted    # so far they may be touched
    cdef uint64_t *wanted            # which of them must grow ...
    cdef uint64_t wanted_bytes       # ... and how far
    cdef bint turn                   # what it waited for is for the next request
    cdef uint64_t rx_begin, rx_end   # bytes received and not yet parsed
    cdef uint64_t rx_low             # the oldest byte that a parked request keeps
    cdef uint64_t out_end            # bytes of `out` in use
    cdef uint64_t tx_next, tx_low    # where the next room in tx begins; the oldest in use
    cdef uint64_t tx_live            # how many are

    cdef bint is_wanted(self) noexcept nogil
    cdef bint grow(self, uint64_t *granted, uint64_t to_bytes, uint64_t most_bytes) noexcept nogil
    cdef void adopt(self) noexcept nogil
    cdef int64_t place(self, uint64_t n) noexcept nogil
    cdef void to_front(self) noexcept nogil
    cdef void shed(self, bint kept, bint gathered) noexcept nogil
    cdef void release_pages(self, void *p, uint64_t n) noexcept nogil
