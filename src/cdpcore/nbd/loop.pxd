"""The request loop of an NBD connection (see loop.pyx), for what carries requests out."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

from cdpcore.base.stages cimport CDP_REQUEST_KINDS, cdp_stages
from cdpcore.base.target cimport cdp_extent
from cdpcore.nbd.memory cimport Ranges
from cdpcore.nbd.nbd_wire cimport cdp_nbd_request, cdp_nbd_rules


# Written by the connection's thread alone; read by any, each word whole but not all of one moment.
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
    IOVS = 256               # pieces of one send
    STATUS_MAX = 8192        # descriptors a BLOCK_STATUS reply

# How a connection ended.
cdef enum:
    RUNNING = 0
    END_DISC = 1
    END_EOF = 2
    END_STOPPED = 3
    END_GARBAGE = 4
    END_OVERSIZE = 5
    END_RECV = 6
    END_SEND = 7
    END_PAUSED = 8
    END_SLOW = 9

# What the next request waits for; 0: nothing.
cdef enum:
    BLOCKED_REPLY = 1        # until replies have been sent
    BLOCKED_KEPT = 2         # until parked requests have been released
    BLOCKED_MEMORY = 3       # until it has its turn at the memory that connections share

# How far a parked request is.
cdef enum:
    UNDER_WAY = 0
    GATHERED = 1             # its reply was gathered
    SENT = 2                 # ... and sent

# A request that is answered later.
cdef struct nbd_parked:
    cdp_nbd_request r
    uint64_t rx_at           # where its bytes begin in rx: kept until it is released
    uint64_t tx_at           # the room for its reply in tx ...
    uint64_t tx_bytes        # ... 0: none
    uint32_t state
    int64_t received_ns      # when it was received whole ...
    int64_t parked_ns        # ... and parked
    nbd_parked *next         # of those whose replies were gathered


cdef class RequestLoop(Ranges):
    # Constant after construction.
    cdef object sock         # keeps fd open
    cdef int fd
    cdef cdp_nbd_rules rules
    cdef uint32_t context_id
    cdef int64_t gather_ns           # a reply waits no longer for others
    cdef nbd_parked *parked          # by number, modulo parked_max; NULL: nothing is ever parked
    cdef uint64_t parked_max
    cdef cdp_stages *stages          # of the disk; NULL: nothing is counted there
    # The connection's thread only.
    cdef uint64_t need_bytes         # the request at rx_begin is complete with so many
    cdef uint64_t drain_bytes        # payload of a refused write still to be thrown away, then `drained` is answered
    cdef cdp_nbd_request drained
    cdef uint32_t drain_error
    cdef const char *drain_why
    cdef uint64_t head, answered, tail            # numbers of parked requests: the next one; see invariant 4
    cdef uint64_t under_way          # how many of them have no reply yet
    cdef nbd_parked *to_send         # those whose replies were gathered
    cdef iovec iov[IOVS]
    cdef uint32_t n_iov
    cdef uint64_t gathered           # bytes in iov
    cdef int64_t gathered_ns         # since when
    cdef int64_t received_ns         # when something was last received
    cdef uint64_t noted_read, noted_written      # bytes that are counted there
    cdef uint64_t on_spot[CDP_REQUEST_KINDS]     # gathered replies to requests that were not parked
    cdef bint counted                # the next request is in `counts`: it was blocked
    cdef int blocked                 # 0, or what the next request waits for
    cdef bint deaf                   # the client takes no more replies
    cdef int ending                  # 0, or why nothing more is received
    # Any thread, atomic.
    cdef nbd_counters counts
    cdef int stopping                # 1: after what was received; 2: now
    cdef int pausing
    cdef int started

    # The seam: what carries requests out.
    cdef bint start(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil
    cdef uint64_t reply_bytes(self, const cdp_nbd_request *r) noexcept nogil
    cdef bint reap(self) noexcept nogil
    cdef void send(self) noexcept nogil
    cdef void wait(self, bint moved) noexcept nogil
    cdef void wake(self) noexcept nogil
    cdef int bell(self) noexcept nogil
    cdef void finish(self) noexcept nogil

    # For its implementations.
    cdef bint fill(self, bint blocking) noexcept nogil
    cdef void await_memory(self) noexcept nogil
    cdef bint has_room(self, const cdp_nbd_request *r) noexcept nogil
    cdef nbd_parked *park(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil
    cdef void replied(self, nbd_parked *m) noexcept nogil
    cdef void release(self, uint64_t tail) noexcept nogil
    cdef void note_sent(self, int64_t began) noexcept nogil
    cdef bint is_full(self) noexcept nogil
    cdef bint is_overdue(self) noexcept nogil
    cdef void transmit(self) noexcept nogil
    cdef void gather(self, void *p, uint64_t n) noexcept nogil
    cdef void refuse(self, const cdp_nbd_request *r, uint32_t error, const char *why) noexcept nogil
    cdef void reply_done(self, const cdp_nbd_request *r) noexcept nogil
    cdef uint64_t put_data(self, const cdp_nbd_request *r, uint8_t *at) noexcept nogil
    cdef uint64_t reply_data(self, const cdp_nbd_request *r, uint8_t *at) noexcept nogil
    cdef uint64_t reply_status(self, const cdp_nbd_request *r, uint8_t *at, uint32_t context_id, uint32_t count,
                               uint32_t flags) noexcept nogil
    cdef uint32_t header_bytes(self) noexcept nogil

    cdef int run(self) noexcept nogil
    cdef bint process(self) noexcept nogil
    cdef uint64_t make_room(self) noexcept nogil
    cdef void count(self, const cdp_nbd_request *r) noexcept nogil
