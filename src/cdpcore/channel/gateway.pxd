"""A gateway's NBD connection (see gateway.pyx)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cdpcore.channel.channel cimport Channel, cdp_channel
from cdpcore.channel.mdpacket cimport cdp_mdpacket
from cdpcore.nbd.connection cimport MAX_CONTEXTS
from cdpcore.nbd.loop cimport RequestLoop, nbd_parked


cdef class GateConnection(RequestLoop):
    # Constant after construction.
    cdef Channel channel
    cdef cdp_channel *c
    cdef uint32_t ids[MAX_CONTEXTS + 1]      # of metadata contexts, base:allocation first where it is one
    cdef uint32_t n_ids
    cdef int wake_r, wake_w  # written to: there is another door, or it is time to stop
    # The connection's thread only.
    cdef int door            # -1: no daemon
    cdef uint64_t reaped             # the next packet that the daemon answers
    cdef uint64_t rung               # `head` when the daemon was last woken
    cdef int64_t idle_ns             # since when there was nothing to do; 0: there was
    # Any thread, atomic.
    cdef int next_door               # -1: none

    cdef void ring(self) noexcept nogil
    cdef void take_door(self) noexcept nogil
    cdef void sleep(self) noexcept nogil
    cdef void release_written(self) noexcept nogil
    cdef void answer(self, nbd_parked *m, const cdp_mdpacket *p) noexcept nogil
    cdef void answer_status(self, nbd_parked *m, const cdp_mdpacket *p) noexcept nogil
