"""Frames in the slots of a log.

Invariants
 1. A frame lies in one slot. The next one lies behind it where the slot has room for it and its segment goes on;
    else in a slot of its own. So a slot holds one range of one segment file.
 2. A slot is reused, or given back, only when its frames are on disk and no reader has it pinned.
 3. Frames of a segment lie in its file one behind the other, in ring order.

The log takes slots as it goes, up to its share, and keeps what is written for its readers. Beyond, it takes what a
thread prepares, while the bound of the process's memory allows it, where reads ask for what it no longer has or the
device falls behind; at the bound it gets one from a log that has more. Else it reuses its oldest. What was neither
written nor read for a while is given back.
"""
cimport cython
from libc.errno cimport EIO
from libc.stdio cimport snprintf
from cdpcore.base.clock cimport cdp_monotonic_ms
from cdpcore.base.format cimport CDP_SECTOR
from cdpcore.base.status cimport CDP_UNAVAILABLE, cdp_fail
from cdpcore.base.thread cimport (cdp_cond_init, pthread_cond_broadcast, pthread_cond_destroy, pthread_mutex_destroy,
                                  pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock)
from cdpcore.log.frame cimport CDP_FRAME_MIN_SLOT
from cdpcore.log.memory cimport (cdp_memory_free, cdp_memory_from_others, cdp_memory_is_over, cdp_memory_join,
                                 cdp_memory_leave, cdp_memory_limit, cdp_memory_new, cdp_memory_prepared)
from cdpcore.log.slots cimport (CDP_BREAK_BOUND, CDP_BREAK_CHECK, CDP_BREAK_PINS, CDP_FRAMES_OPEN, CDP_MAX_SLOTS,
                                CDP_NO_SLOT, CDP_SLOT_MISSES, cdp_slot, cdp_slots_close, cdp_slots_init,
                                cdp_slots_look, cdp_slots_mark, cdp_slots_open, cdp_slots_pin, cdp_slots_take,
                                cdp_slots_take_idle, cdp_slots_unpin, cdp_slots_unwritten)
from cdpcore.base.errors import InvalidRequest

cdef extern from * nogil:
    uint64_t relaxed "__atomic_load_n"(const uint64_t *p, int order)
    uint64_t subtract "__atomic_sub_fetch"(uint64_t *p, uint64_t v, int order)
    void store "__atomic_store_n"(uint64_t *p, uint64_t v, int order)
    enum: RELAXED "__ATOMIC_RELAXED"

RULES = {"pins": CDP_BREAK_PINS, "check": CDP_BREAK_CHECK, "bound": CDP_BREAK_BOUND}


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os` and `memory`
cdef class FrameRing:
    """The frames of a log in slots of `slot_bytes` (a multiple of 4096), at most `max_slots` of them, from `memory`.
    `unwritten_bytes`: so much may wait to be written in any case, else half of the memory's bound. `ahead`: a thread
    prepares what the log takes beyond that.

    Threading: see the fields; the open frame is filled without the mutex."""

    def __cinit__(self, Os os not None, Memory memory not None, *, uint64_t slot_bytes, uint64_t unwritten_bytes,
                  uint32_t max_slots=CDP_MAX_SLOTS, bint ahead=False):
        if slot_bytes % 4096 or slot_bytes < CDP_FRAME_MIN_SLOT or slot_bytes > 16 << 20:
            raise InvalidRequest(f"frames in slots of {slot_bytes} bytes",
                                 f"use a multiple of 4096, {CDP_FRAME_MIN_SLOT} to {16 << 20}")
        if max_slots < 2 or max_slots > CDP_MAX_SLOTS:
            raise InvalidRequest(f"a log of {max_slots} slots", f"use 2 to {CDP_MAX_SLOTS}")
        self.os = os
        self.memory = memory
        self.slot_bytes = slot_bytes
        self.ahead = ahead
        self.unwritten_bytes = max(unwritten_bytes, slot_bytes)
        pthread_mutex_init(&self.mutex, NULL)
        cdp_cond_init(&self.changed)
        self.frames = <ring_frame *>os.table.pages(os.table.ctx, FRAMES * sizeof(ring_frame))   # as in slots.c
        if self.frames == NULL or cdp_slots_init(&self.slots, os.table, &self.mutex, &self.changed, &self.written,
                                                 slot_bytes, max_slots) < 0:
            raise MemoryError()
        cdp_memory_join(&memory.m, &self.slots)

    def __dealloc__(self):
        self.release()
        if self.frames != NULL:
            self.os.table.free_pages(self.os.table.ctx, self.frames, FRAMES * sizeof(ring_frame))
        pthread_cond_destroy(&self.changed)
        pthread_mutex_destroy(&self.mutex)

    def release(self):
        """Give back all memory: nobody reads or writes any more. Idempotent."""
        if self.slots.at != NULL:
            cdp_memory_leave(&self.memory.m, &self.slots)

    def break_rule(self, rule: str):
        """For tests of the tests: from now on a slot is reused under its readers ("pins"), a reader does not check
        what it has pinned ("check"), or the memory's bound is ignored ("bound")."""
        self.slots.broken |= <uint32_t>RULES[rule]

    @property
    def bytes(self) -> int:
        """Memory that its slots take now."""
        return self.slots.n * self.slot_bytes

    cdef ring_frame *at(self, uint64_t k) noexcept nogil:
        return &self.frames[k % FRAMES]

    cdef ring_frame *last(self) noexcept nogil:
        return &self.frames[(self.opened - 1) % FRAMES]

    # --- room for frames (mutex held) ---------------------------------------------------------------------------------

    cdef bint make_room(self, uint64_t loc, uint64_t need) noexcept nogil:
        cdef cdp_slot *s
        cdef uint8_t *mem
        if self.opened - self.written >= FRAMES:
            return False
        if self.slots.newest != CDP_NO_SLOT:
            s = &self.slots.at[self.slots.newest]
            if s.end_frame == CDP_FRAMES_OPEN:
                if s.first + self.covered_bytes // CDP_SECTOR == loc and \
                        self.slot_bytes - self.covered_bytes >= max(need, self.slot_bytes // 8):
                    return True
                cdp_slots_close(&self.slots, self.covered_bytes // CDP_SECTOR, self.opened)
        mem = self.more_memory()
        if mem == NULL:
            return False
        cdp_slots_open(&self.slots, mem, loc)
        cdp_slots_mark(&self.slots, loc, cdp_memory_limit(&self.memory.m) // self.slot_bytes)
        self.covered_bytes = 0
        return True

    cdef uint8_t *more_memory(self) noexcept nogil:
        """The log grows where it may. Not with data that waits for the device for too long: who writes waits, too."""
        cdef uint8_t *mem = NULL
        cdef uint64_t unwritten = (cdp_slots_unwritten(&self.slots) + 1) * self.slot_bytes
        cdef bint beyond = self.ahead and self.slots.n * self.slot_bytes >= self.unwritten_bytes
        if unwritten > self.unwritten_bytes and \
                (unwritten > cdp_memory_limit(&self.memory.m) // 2 or self.is_late()):
            return NULL
        if self.slots.n < self.slots.cap and (not beyond or self.pays(unwritten)):
            mem = self.prepared() if beyond else cdp_memory_new(&self.memory.m, &self.slots, False)
            if mem == NULL:
                pthread_mutex_unlock(&self.mutex)   # the append lock is held: nobody else opens a frame meanwhile
                mem = cdp_memory_from_others(&self.memory.m, &self.slots, self.slots.n)
                pthread_mutex_lock(&self.mutex)
        if mem == NULL:
            mem = cdp_slots_take(&self.slots, True)
        if mem == NULL and self.slots.n == 0:
            mem = cdp_memory_new(&self.memory.m, &self.slots, True)
        return mem

    cdef bint pays(self, uint64_t unwritten) noexcept nogil:
        """More memory than the log's share may help: reads would have found there what they wanted, or the device falls
        behind. Else who only writes would pay for memory that nobody reads: 2.4 us a write of 4 KiB, where the write
        itself takes 2.9 (a virtual machine that gets the memory from its host)."""
        return self.is_read() or unwritten > self.unwritten_bytes // 2

    cdef bint is_read(self) noexcept nogil:
        return relaxed(&self.slots.misses, RELAXED) >= CDP_SLOT_MISSES

    cdef uint8_t *prepared(self) noexcept nogil:
        cdef uint8_t *mem = cdp_memory_prepared(&self.memory.m, &self.slots, self.is_read())
        if mem != NULL and self.is_read():
            subtract(&self.slots.misses, CDP_SLOT_MISSES, RELAXED)
        return mem

    cdef bint is_late(self) noexcept nogil:
        return self.max_wait_ms and self.written < self.queued and \
            cdp_monotonic_ms() - self.at(self.written).finished_ms > self.max_wait_ms

    cdef uint8_t *place(self, ring_frame *r) noexcept nogil:
        cdef cdp_slot *s = &self.slots.at[self.slots.newest]
        r.slot = self.slots.newest
        r.use = s.use
        r.complete = False
        s.looked = False
        self.opened += 1
        return s.mem + self.covered_bytes

    cdef void finished(self) noexcept nogil:
        self.covered_bytes += self.last().f.total_bytes
        self.last().finished_ms = cdp_monotonic_ms()
        self.queued = self.opened

    cdef uint64_t in_the_way(self) noexcept nogil:
        cdef uint32_t i = self.slots.oldest
        if self.opened - self.written >= FRAMES:
            return self.written + 1
        while i != CDP_NO_SLOT:
            if self.slots.at[i].end_frame > self.written:
                return min(self.slots.at[i].end_frame, self.queued)
            i = self.slots.at[i].newer
        return 0

    cdef bint has(self, uint64_t k) noexcept nogil:
        cdef const ring_frame *r = self.at(k)
        return self.slots.at != NULL and self.slots.at[r.slot].mem != NULL and self.slots.at[r.slot].use == r.use

    cdef void give_back(self) noexcept nogil:
        cdef uint8_t *mem
        pthread_mutex_lock(&self.mutex)
        if self.queued == self.opened and self.slots.newest != CDP_NO_SLOT and \
                self.slots.at[self.slots.newest].end_frame == CDP_FRAMES_OPEN:
            cdp_slots_close(&self.slots, self.covered_bytes // CDP_SECTOR, self.opened)
        store(&self.slots.misses, 0, RELAXED)       # long ago: they say nothing of what is read next
        cdp_slots_look(&self.slots)
        while True:
            mem = cdp_slots_take_idle(&self.slots)
            if mem == NULL and cdp_memory_is_over(&self.memory.m):
                mem = cdp_slots_take(&self.slots, False)
            if mem == NULL:
                break
            pthread_mutex_unlock(&self.mutex)
            cdp_memory_free(&self.memory.m, &self.slots, mem)
            pthread_mutex_lock(&self.mutex)
        pthread_mutex_unlock(&self.mutex)

    # --- failures -----------------------------------------------------------------------------------------------------

    cdef void note_failure(self, int errno_, const char *where) noexcept nogil:
        if self.failed:
            return
        snprintf(self.failed_text, sizeof(self.failed_text),
                 b"%s failed earlier; close and open the volume to recover", where)
        self.failed = errno_ if errno_ else EIO

    cdef void fail(self, int errno_, const char *where) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.note_failure(errno_, where)
        pthread_cond_broadcast(&self.changed)
        pthread_mutex_unlock(&self.mutex)

    cdef int fail_sticky(self, cdp_status *st) noexcept nogil:
        return cdp_fail(st, CDP_UNAVAILABLE, self.failed, 0, self.failed_text)

    # --- readers ------------------------------------------------------------------------------------------------------

    cdef uint8_t *pin(self, uint64_t loc, uint32_t *token) noexcept nogil:
        """The bytes at `loc` if their frame is still in its slot, pinned until unpin(token); NULL: they are on disk."""
        return cdp_slots_pin(&self.slots, loc, token)

    cdef void unpin(self, uint32_t token) noexcept nogil:
        cdp_slots_unpin(&self.slots, token)
