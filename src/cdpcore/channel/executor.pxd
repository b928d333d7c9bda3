"""The daemon's end of a channel (see executor.pyx)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_extent, cdp_map, cdp_target
from cdpcore.channel.channel cimport Channel, cdp_channel
from cdpcore.channel.mdpacket cimport cdp_mdpacket
from cdpcore.nbd.connection cimport MAX_CONTEXTS, nbd_map_function

cdef enum:
    BATCH = 64               # packets between two looks at the rest of the world; also replies that share a flush


cdef class Executor:
    # constant after construction
    cdef Channel channel
    cdef cdp_channel *c
    cdef object capsule             # keeps *target alive
    cdef const cdp_target *target
    cdef bint counts                # the target returns seqs
    cdef uint32_t epoch
    cdef int door                   # own
    # constant from run() on
    cdef object context_capsules    # keep *maps alive
    cdef const cdp_map *maps[MAX_CONTEXTS]
    cdef uint32_t n_maps
    cdef bint maps_base             # of base:allocation, too
    # the executor's thread only
    cdef uint64_t done
    cdef uint64_t waiting[BATCH]    # packets of this batch that wait for a flush
    cdef uint32_t n_waiting
    # any thread, atomic
    cdef int stopping
    cdef int started

    cdef int loop(self) noexcept nogil
    cdef void batch(self, uint64_t end) noexcept nogil
    cdef void execute(self, cdp_mdpacket *p, uint32_t flags) noexcept nogil
    cdef int change(self, cdp_mdpacket *p, uint32_t flags, cdp_status *st) noexcept nogil
    cdef int map(self, cdp_mdpacket *p, cdp_status *st) noexcept nogil
    cdef int map_part(self, void *ctx, nbd_map_function map, cdp_extent *out, uint32_t room, const cdp_mdpacket *p,
                      cdp_status *st) noexcept nogil
    cdef void flush_waiting(self) noexcept nogil
    cdef void publish(self) noexcept nogil
    cdef int sleep(self) noexcept nogil
    cdef bint mine(self) noexcept nogil
