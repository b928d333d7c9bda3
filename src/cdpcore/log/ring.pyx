"""Frames in the slots of the buffer pool.

Invariants
 1. Frame k lives in slot k mod n, so frames come and go in order and nothing is searched for.
 2. A slot is reused only when its frame is on disk and no reader has it pinned.
 3. Frames of a segment lie in its file one behind the other, in ring order.
"""
from libc.errno cimport EIO
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from cdpcore.base.format cimport CDP_SECTOR
from cdpcore.base.status cimport CDP_UNAVAILABLE, cdp_fail
from cdpcore.base.thread cimport (cdp_cond_init, pthread_cond_broadcast, pthread_cond_destroy, pthread_mutex_destroy,
                                  pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock)
from cdpcore.log.frame cimport CDP_FRAME_MIN_SLOT
from cdpcore.base.errors import InvalidRequest


cdef class FrameRing:
    """As many frames as `pool` has slots. Threading: see the fields; the open frame is filled without the mutex."""

    def __cinit__(self, BufferPool pool not None):
        if pool.slot_bytes < CDP_FRAME_MIN_SLOT:
            raise InvalidRequest(f"frames in slots of {pool.slot_bytes} bytes", f"use {CDP_FRAME_MIN_SLOT} or more")
        self.pool = pool
        self.n = pool.n_slots
        pthread_mutex_init(&self.mutex, NULL)
        cdp_cond_init(&self.changed)
        self.frames = <ring_frame *>calloc(self.n, sizeof(ring_frame))
        if self.frames == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.frames)
        pthread_cond_destroy(&self.changed)
        pthread_mutex_destroy(&self.mutex)

    cdef ring_frame *at(self, uint64_t k) noexcept nogil:
        return &self.frames[k % self.n]

    cdef ring_frame *last(self) noexcept nogil:
        return &self.frames[(self.opened - 1) % self.n]

    cdef bint next_is_free(self) noexcept nogil:
        return self.opened - self.written < self.n and self.frames[self.opened % self.n].pins == 0

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

    cdef uint8_t *pin(self, uint64_t loc, uint64_t *token) noexcept nogil:
        """The bytes at `loc` if their frame is still in its slot, pinned until unpin(token); NULL: they are on disk.

        Frames of a segment lie one behind the other, so the last frame in the ring that begins at or before `loc`
        holds it, or none does. A location given out is never in a frame that has not been started."""
        cdef uint32_t number = <uint32_t>(loc >> 32)
        cdef uint64_t off = <uint64_t><uint32_t>loc * CDP_SECTOR
        cdef uint64_t lo, hi, mid
        cdef ring_frame *r
        cdef uint8_t *at = NULL
        pthread_mutex_lock(&self.mutex)
        hi = self.opened
        lo = hi - self.n if hi > self.n else 0
        while lo < hi:      # first frame that begins after loc
            mid = (lo + hi) // 2
            r = self.at(mid)
            if r.f.segment < number or (r.f.segment == number and r.f.file_off <= off):
                lo = mid + 1
            else:
                hi = mid
        if lo > 0 and self.opened - lo < self.n:
            r = self.at(lo - 1)
            # The slot that is next to be reused is left alone once it is on disk: readers must not starve an appender.
            if r.f.segment == number and r.f.file_off <= off and (self.opened - lo + 1 < self.n or lo > self.written):
                r.pins += 1
                token[0] = lo - 1
                at = r.f.slot + (off - r.f.file_off)
        pthread_mutex_unlock(&self.mutex)
        return at

    cdef void unpin(self, uint64_t token) noexcept nogil:
        cdef ring_frame *r = self.at(token)
        pthread_mutex_lock(&self.mutex)
        r.pins -= 1
        if r.pins == 0 and self.opened - token >= self.n:
            pthread_cond_broadcast(&self.changed)  # an appender waits for this slot
        pthread_mutex_unlock(&self.mutex)
