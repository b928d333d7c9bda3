"""A gateway's NBD connection (see nbdgate.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from posix.uio cimport iovec
from cdpcore.channel.channel cimport Channel, cdp_channel
from cdpcore.channel.mdpacket cimport cdp_mdpacket
from cdpcore.nbd.connection cimport nbd_counters
from cdpcore.nbd.nbd_wire cimport cdp_nbd_request, cdp_nbd_rules


cdef enum:
    IOVS = 256
    SMALL_BYTES = 65536      # replies without data, of one send

# What the gateway keeps of a packet, beside the packet.
cdef struct note:
    cdp_nbd_request r
    uint32_t rx_at           # where its bytes begin in RECEIVE
    uint32_t tx_at           # the room for its reply in REPLY ...
    uint32_t tx_bytes        # ... 0: none


cdef class GateConnection:
    # constant after construction
    cdef object sock         # keeps fd open
    cdef Channel channel
    cdef cdp_channel *c
    cdef cdp_nbd_rules rules
    cdef int fd
    cdef uint32_t context_id
    cdef uint8_t *rx         # the groups
    cdef uint8_t *tx
    cdef note *notes         # one a slot
    cdef uint8_t *small
    cdef int wake_r, wake_w  # rung here: there is another door, or it is time to stop
    # the connection's thread only
    cdef int door            # -1: no daemon
    cdef uint64_t head, reaped, answered, tail
    cdef uint32_t rx_begin, rx_end, rx_low    # received and not parsed; the oldest byte that is kept
    cdef uint64_t need_bytes         # the request at rx_begin is complete with so many
    cdef uint32_t tx_next, tx_low, tx_live    # where the next room begins; the oldest in use; how many are
    cdef uint64_t drain_bytes
    cdef cdp_nbd_request drained
    cdef uint32_t drain_error
    cdef const char *drain_why
    cdef iovec iov[IOVS]
    cdef uint32_t n_iov, small_end
    cdef uint64_t gathered           # bytes in iov
    cdef int64_t gathered_ns         # since when
    cdef int blocked                 # 0, or what the next request waits for
    cdef bint deaf                   # the client takes no more replies
    cdef int ending                  # 0, or why nothing more is received
    # any thread, atomic
    cdef nbd_counters counts
    cdef int stopping                # 1: after what was received; 2: now
    cdef int started
    cdef int next_door               # -1: none

    cdef int run(self) noexcept nogil
    cdef bint reap(self) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef int receive(self) noexcept nogil
    cdef int parse(self) noexcept nogil
    cdef int make_room(self) noexcept nogil
    cdef bint submit(self, const cdp_nbd_request *r, uint32_t payload) noexcept nogil
    cdef int64_t place_reply(self, uint32_t n) noexcept nogil
    cdef void reply(self, note *m, cdp_mdpacket *p) noexcept nogil
    cdef void reply_read(self, note *m) noexcept nogil
    cdef void reply_status(self, note *m, cdp_mdpacket *p) noexcept nogil
    cdef void refuse(self, const cdp_nbd_request *r, uint32_t error, const char *why) noexcept nogil
    cdef void gather(self, void *p, uint64_t n) noexcept nogil
    cdef void send(self) noexcept nogil
    cdef void ring(self) noexcept nogil
    cdef void sleep(self) noexcept nogil
    cdef void take_door(self) noexcept nogil
