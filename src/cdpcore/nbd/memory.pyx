"""The memory that the connections of a server share for large requests, and its bound; and what one connection has of
it. What it is for, and whose turn it is, is in nbd/nbd_memory.h.

Invariants
 1. Of a range nothing is touched beyond what is granted, and that is free_bytes and what is claimed.
 2. Who waits for a turn has claimed nothing, so nobody waits for who waits.
Threading: ConnectionMemory: any thread; the connections that use it keep it. Ranges: the connection's thread.
"""
cimport cython
from libc.string cimport memmove
from cdpcore.nbd.nbd_sock cimport nbd_get, nbd_release
from cdpcore.nbd.nbd_wire cimport CDP_NBD_REQUEST_BYTES, cdp_nbd_parse, cdp_nbd_payload_bytes, cdp_nbd_request

from cdpcore.base.errors import InvalidRequest as _InvalidRequest

LEAST_BYTES = NBD_MEMORY_LEAST_BYTES
"""A bound that is lower is taken for this: the largest request must fit."""


@cython.final
cdef class ConnectionMemory:
    """ConnectionMemory(limit_bytes, *, pace_ms=4000)

    limit_bytes  the most that the connections take together, beside what each may always have; LEAST_BYTES at least
    pace_ms      while others wait, a client has so much time for each 4 MiB that it sends or takes
    """

    def __cinit__(self, uint64_t limit_bytes, *, uint32_t pace_ms=4000):
        if limit_bytes == 0 or limit_bytes >> 62:
            raise _InvalidRequest(f"memory of {limit_bytes} bytes", "use a whole number of bytes, 1 to 2^62")
        nbd_memory_init(&self.m, limit_bytes, pace_ms)

    def __dealloc__(self):
        nbd_memory_destroy(&self.m)

    def counters(self) -> dict[str, int]:
        """limit_bytes; used_bytes now, and most_bytes ever; connections that are waiting now; waits: how often one had
        to; cuts: how often one was cut off because its client held up others. Any thread; not of one moment."""
        return {"limit_bytes": self.m.limit_bytes, "used_bytes": nbd_get(&self.m.used_bytes),
                "most_bytes": nbd_get(&self.m.most_bytes), "waiting": nbd_memory_waiting(&self.m),
                "waits": nbd_get(&self.m.waits), "cuts": nbd_get(&self.m.cuts)}


cdef class Ranges:
    """What a connection receives into and answers from: rx, `out` and tx."""

    cdef bint is_wanted(self) noexcept nogil:
        """Others wait for what this connection has."""
        return self.memory != NULL and self.claim.held_bytes and nbd_memory_waiting(self.memory)

    cdef bint grow(self, uint64_t *granted, uint64_t to_bytes, uint64_t most_bytes) noexcept nogil:
        """Have a range granted, to_bytes at least of its most_bytes. False: there is not enough, and `wanted` says of
        what."""
        cdef uint64_t n = min(most_bytes, (to_bytes + self.step_bytes - 1) // self.step_bytes * self.step_bytes)
        if self.memory == NULL or nbd_memory_try(self.memory, &self.claim, n - granted[0]):
            granted[0] = n
            return True
        self.wanted = granted
        self.wanted_bytes = n
        return False

    cdef void adopt(self) noexcept nogil:
        """What resume() brought has its memory."""
        cdef cdp_nbd_request r
        cdef uint64_t n = self.rx_end
        if cdp_nbd_parse(self.rx + self.rx_begin, self.rx_end - self.rx_begin, &r) > 0:
            n = max(n, min(self.rx_begin + CDP_NBD_REQUEST_BYTES + cdp_nbd_payload_bytes(&r), self.rx_bytes))
        if self.rx_end > self.rx_granted:
            if self.memory != NULL:
                nbd_memory_force(self.memory, &self.claim, n - self.rx_granted)
            self.rx_granted = n

    cdef int64_t place(self, uint64_t n) noexcept nogil:
        """Room for n bytes in tx, in one piece; -1: when more replies have been sent, or there is memory."""
        cdef uint64_t at = (self.tx_next + 7) & ~<uint64_t>7    # extents are aligned
        if self.tx_live and self.tx_granted > self.free_bytes and self.is_wanted():
            return -1       # all of it is given back once they are sent
        if not self.tx_live:
            at = self.tx_low = 0
        elif self.tx_next >= self.tx_low:
            if n < self.tx_low and at + n > self.tx_soft:
                at = 0
            elif at + n > self.tx_bytes:
                return -1
        elif at + n >= self.tx_low:
            return -1
        if at + n > self.tx_granted and not self.grow(&self.tx_granted, at + n, self.tx_bytes):
            return -1
        self.tx_next = at + n
        self.tx_live += 1
        return at

    cdef void to_front(self) noexcept nogil:
        """What was received, of which nothing is kept, begins where rx begins."""
        memmove(self.rx, self.rx + self.rx_begin, self.rx_end - self.rx_begin)
        self.rx_end -= self.rx_begin
        self.rx_begin = self.rx_low = 0

    cdef void shed(self, bint kept, bint gathered) noexcept nogil:
        """Give back what is not in use. kept: parked requests keep bytes of rx; gathered: replies lie in `out`."""
        cdef uint64_t n = 0
        if self.rx_granted > self.free_bytes and not kept and self.rx_end - self.rx_begin <= self.free_bytes:
            if self.rx_end > self.free_bytes:
                self.to_front()
            self.release_pages(self.rx + self.free_bytes, self.rx_granted - self.free_bytes)
            n += self.rx_granted - self.free_bytes
            self.rx_granted = self.free_bytes
        if self.out_granted > self.free_bytes and not gathered:
            self.release_pages(self.out + self.free_bytes, self.out_granted - self.free_bytes)
            n += self.out_granted - self.free_bytes
            self.out_granted = self.free_bytes
        if self.tx_granted > self.free_bytes and not self.tx_live:
            self.tx_next = self.tx_low = 0
            self.release_pages(self.tx + self.free_bytes, self.tx_granted - self.free_bytes)
            n += self.tx_granted - self.free_bytes
            self.tx_granted = self.free_bytes
        if n and self.memory != NULL:
            nbd_memory_give(self.memory, &self.claim, n)

    cdef void release_pages(self, void *p, uint64_t n) noexcept nogil:
        """They return to the system, and read as zeros afterwards."""
        nbd_release(p, n)
