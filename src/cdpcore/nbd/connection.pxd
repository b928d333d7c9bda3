"""An NBD connection to a disk in this process (see connection.pyx)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_extent, cdp_map, cdp_target
from cdpcore.base.workers cimport cdp_job
from cdpcore.nbd.loop cimport RequestLoop, nbd_parked
from cdpcore.nbd.nbd_wire cimport cdp_nbd_request

cdef enum:
    PARKED_MAX = 256         # requests that wait: for a device, or for a flush
    MAX_CONTEXTS = 15        # metadata contexts besides base:allocation

cdef const cdp_target *target_of(object capsule) except NULL


ctypedef int (*nbd_map_function)(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap,
                                 uint32_t *n, cdp_status *st) noexcept nogil


cdef struct nbd_context:
    uint32_t id              # as the client knows it
    const cdp_map *map


# What a worker does for a parked request: a read, or a flush that this one and those after it in `group` wait for.
cdef struct nbd_task:
    cdp_job job              # then on Connection.done
    void *connection
    nbd_parked *parked
    nbd_task *group          # the next one that waits for the same flush
    uint64_t n               # bytes of the reply
    uint32_t error           # of NBD; 0: none
    const char *why


cdef class Connection(RequestLoop):
    # Constant after construction.
    cdef object capsule      # keeps *target alive
    cdef const cdp_target *target
    cdef object context_capsules     # keep the maps alive
    cdef nbd_context contexts[MAX_CONTEXTS]
    cdef uint32_t n_contexts
    cdef bint base_selected  # base:allocation
    cdef bint own_fua        # FUA never becomes a flush that others share
    cdef bint can_park       # the target can be called by workers, and there is a bell
    cdef int bell_r, bell_w  # a pipe: a worker rouses the connection's thread
    cdef nbd_task *tasks     # by number, as `parked`
    # The connection's thread only.
    cdef uint64_t round_bytes        # how far rx, `out` or tx were touched in this round
    cdef nbd_task *due               # the first that waits for a flush that was not begun ...
    cdef nbd_task *due_last          # ... and the last
    cdef uint32_t crowded            # so many requests that wait are to be parked before one is tried on the spot
    cdef uint64_t handed_over        # requests that workers carried out
    # Workers too, atomic.
    cdef cdp_job *done               # what they are through with
    cdef int dozing                  # the connection's thread waits for the bell
    cdef int inside                  # workers that will touch this object yet

    cdef bint read(self, const cdp_nbd_request *r) noexcept nogil
    cdef bint cache(self, const cdp_nbd_request *r) noexcept nogil
    cdef int select(self, object contexts, bint structured, bint base) except -1
    cdef void block_status(self, const cdp_nbd_request *r) noexcept nogil
    cdef bint status_of(self, const cdp_nbd_request *r, void *ctx, nbd_map_function map, uint32_t context_id,
                        uint32_t cap, bint last) noexcept nogil
    cdef bint change(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil
    cdef bint flush_due(self, const cdp_nbd_request *r) noexcept nogil

    # What takes long; any thread. 0, an error of NBD, or WAITS where `wait` is not set; n: bytes of the reply.
    cdef uint32_t put_read(self, const cdp_nbd_request *r, uint8_t *p, bint wait, uint64_t *n,
                           const char **why) noexcept nogil
    cdef uint32_t warm(self, const cdp_nbd_request *r, uint8_t *p, bint wait, const char **why) noexcept nogil
    cdef uint32_t flush(self, const char **why) noexcept nogil
    cdef void work(self, nbd_task *t) noexcept nogil

    cdef bint is_alone(self) noexcept nogil
    cdef void look_for_others(self) noexcept nogil
    cdef bint hand_over(self, const cdp_nbd_request *r) noexcept nogil
    cdef nbd_task *task(self, const cdp_nbd_request *r) noexcept nogil
    cdef void run_task(self, nbd_task *t) noexcept nogil
    cdef void answer(self, nbd_task *t) noexcept nogil
    cdef void begin_flush(self) noexcept nogil
    cdef void foresee(self) noexcept nogil
    cdef void give_back(self) noexcept nogil
