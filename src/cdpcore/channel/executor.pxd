"""The daemon's end of a channel (see executor.pyx)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_extent, cdp_map, cdp_target
from cdpcore.base.workers cimport cdp_job
from cdpcore.channel.channel cimport Channel, cdp_channel
from cdpcore.channel.mdpacket cimport cdp_mdpacket
from cdpcore.nbd.connection cimport MAX_CONTEXTS, nbd_map_function

cdef enum:
    BATCH = 64               # packets between two looks at the rest of the world
    PARKED = 256             # packets that wait: for a device, for a flush, or for those before them

# What a worker does for a parked packet: a read, or a flush that this one and those after it in `group` wait for.
cdef struct executor_task:
    cdp_job job              # then on Executor.finished
    void *executor
    cdp_mdpacket *packet
    uint64_t number
    executor_task *group     # the next one that waits for the same flush
    int rc, sys_errno
    bint finished            # the executor's thread only


cdef class Executor:
    # constant after construction
    cdef Channel channel
    cdef cdp_channel *c
    cdef object capsule             # keeps *target alive
    cdef const cdp_target *target
    cdef bint counts                # the target returns seqs
    cdef uint32_t epoch
    cdef int door                   # own
    cdef int bell_r, bell_w         # a pipe: a worker rouses the executor's thread
    cdef bint can_park              # the target can be called by workers, and there is a bell
    # constant from run() on
    cdef object context_capsules    # keep *maps alive
    cdef const cdp_map *maps[MAX_CONTEXTS]
    cdef uint32_t n_maps
    cdef bint maps_base             # of base:allocation, too
    # the executor's thread only
    cdef uint64_t done              # packets before it are answered
    cdef uint64_t next              # and before it begun
    cdef uint64_t told              # and before it the gateway was rung for
    cdef executor_task parked[PARKED]       # a ring, by number: not finished, or one before it is not
    cdef uint32_t first_parked
    cdef uint32_t n_parked
    cdef executor_task *due         # the first that waits for a flush that was not begun ...
    cdef executor_task *due_last    # ... and the last
    cdef uint32_t n_due
    cdef uint32_t crowded           # so many that wait are to be parked before one is tried on the spot
    # any thread, atomic
    cdef cdp_job *finished          # what workers are through with
    cdef int dozing                 # the executor's thread waits for the bell
    cdef int inside                 # workers that will touch this object yet
    cdef int stopping
    cdef int started

    cdef int loop(self) noexcept nogil
    cdef void batch(self, uint64_t end) noexcept nogil
    cdef int execute(self, cdp_mdpacket *p, uint32_t flags, bint last) noexcept nogil
    cdef int read(self, uint8_t *data, uint64_t off, uint64_t n, bint last, cdp_status *st) noexcept nogil
    cdef int change(self, cdp_mdpacket *p, uint32_t flags, cdp_status *st) noexcept nogil
    cdef int map(self, cdp_mdpacket *p, cdp_status *st) noexcept nogil
    cdef int map_part(self, void *ctx, nbd_map_function map, cdp_extent *out, uint32_t room, const cdp_mdpacket *p,
                      cdp_status *st) noexcept nogil
    cdef executor_task *park(self, cdp_mdpacket *p) noexcept nogil
    cdef void flush_due(self, cdp_mdpacket *p) noexcept nogil
    cdef void begin_flush(self) noexcept nogil
    cdef bint may_wait(self, bint alone, uint64_t end) noexcept nogil
    cdef void look_for_others(self, uint64_t end) noexcept nogil
    cdef void run_task(self, executor_task *t) noexcept nogil
    cdef void work(self, executor_task *t) noexcept nogil
    cdef void finish(self, executor_task *t) noexcept nogil
    cdef bint reap(self) noexcept nogil
    cdef void publish(self) noexcept nogil
    cdef void tell(self) noexcept nogil
    cdef int sleep(self) noexcept nogil
    cdef bint mine(self) noexcept nogil
