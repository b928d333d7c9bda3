"""New content that waits to be put on the disk: a ring of changes in the order in which they go there, their data in
memory.

A write to a before-image volume is acknowledged when its before-image is in the log and its new content is here; it
goes to the disk when the before-image is durable. Readers find the change of a sector by its seq, which the extent tree
of the open segment knows: the index of the past is the index of what is pending, too. What a destructive restore puts
on the disk is no record's, and nobody looks for it here.

Invariants
 1. Changes are pushed, put on the disk and released in one order, that of their numbers, in which seq does not fall;
    data lies in the ring in the same order, and may wrap.
 2. What a pinned change says, and its data, do not move.
 3. A record's changes are released together, so what is newer than released_seq is here.
 4. claim() before push(): a push never fails and never waits, because it happens under the append lock.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from cdpcore.base.format cimport CDP_SECTOR
from cdpcore.base.target cimport CDP_EXTENT_DATA
from cdpcore.base.thread cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.base.errors import InvalidRequest


cdef class Pending:
    """Room for `data_bytes` of data (a multiple of 4096) in at most `n_changes` changes; nothing up to `released_seq`
    is in it. Any thread, no GIL."""

    def __cinit__(self, Os os not None, *, uint64_t data_bytes, uint32_t n_changes, uint64_t released_seq):
        if data_bytes == 0 or data_bytes % 4096 or n_changes == 0:
            raise InvalidRequest(f"{data_bytes} bytes for pending writes", "use a multiple of 4096")
        self.os = os
        self.table = os.table
        self.data_bytes = data_bytes
        self.n_changes = n_changes
        self.released_seq = released_seq
        pthread_mutex_init(&self.mutex, NULL)
        self.data = <uint8_t *>self.table.pages(self.table.ctx, data_bytes)
        self.changes = <pending_change *>calloc(n_changes, sizeof(pending_change))
        if self.data == NULL or self.changes == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.data != NULL:
            self.table.free_pages(self.table.ctx, self.data, self.data_bytes)
        free(self.changes)
        pthread_mutex_destroy(&self.mutex)

    cdef bint claim(self, uint64_t n_bytes, uint32_t n) noexcept nogil:
        cdef bint room
        pthread_mutex_lock(&self.mutex)
        room = self.to_bytes - self.from_bytes + self.claimed_bytes + n_bytes <= self.data_bytes and \
            self.next - self.first + self.claimed_changes + n <= self.n_changes
        if room:
            self.claimed_bytes += n_bytes
            self.claimed_changes += n
        pthread_mutex_unlock(&self.mutex)
        return room

    cdef void unclaim(self, uint64_t n_bytes, uint32_t n) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.claimed_bytes -= n_bytes
        self.claimed_changes -= n
        pthread_mutex_unlock(&self.mutex)

    cdef void push(self, uint64_t seq, bint recorded, uint64_t start, uint64_t end, uint32_t kind,
                   const uint8_t *data) noexcept nogil:
        cdef pending_change *c
        cdef uint64_t n = (end - start) * CDP_SECTOR if kind == CDP_EXTENT_DATA else 0
        cdef uint64_t at = self.to_bytes % self.data_bytes, head
        if n:   # room that was claimed: nobody else looks there
            head = min(n, self.data_bytes - at)
            memcpy(self.data + at, data, head)
            memcpy(self.data, data + head, n - head)
        pthread_mutex_lock(&self.mutex)
        c = &self.changes[self.next % self.n_changes]
        c.seq = seq
        c.start = start
        c.end = end
        c.at = self.to_bytes
        c.kind = kind
        c.recorded = recorded
        c.pins = 0
        self.next += 1
        self.to_bytes += n
        self.claimed_bytes -= n
        self.claimed_changes -= 1
        pthread_mutex_unlock(&self.mutex)

    cdef uint64_t pushed(self) noexcept nogil:
        cdef uint64_t n
        pthread_mutex_lock(&self.mutex)
        n = self.next
        pthread_mutex_unlock(&self.mutex)
        return n

    cdef pending_change *ready(self, uint64_t k, uint64_t seq) noexcept nogil:
        cdef pending_change *c = NULL
        pthread_mutex_lock(&self.mutex)
        if k < self.next and self.changes[k % self.n_changes].seq <= seq:
            c = &self.changes[k % self.n_changes]
        pthread_mutex_unlock(&self.mutex)
        return c

    cdef pending_change *pin(self, uint64_t seq, uint64_t sector) noexcept nogil:
        cdef uint64_t lo, hi, mid
        cdef pending_change *c
        cdef pending_change *found = NULL
        pthread_mutex_lock(&self.mutex)
        lo = self.first
        hi = self.next
        while lo < hi:      # the first change of `seq`
            mid = (lo + hi) // 2
            if self.changes[mid % self.n_changes].seq < seq:
                lo = mid + 1
            else:
                hi = mid
        while lo < self.next:
            c = &self.changes[lo % self.n_changes]
            if c.seq != seq or not c.recorded:      # a record's own come first
                break
            if c.start <= sector < c.end:
                c.pins += 1
                found = c
                break
            lo += 1
        pthread_mutex_unlock(&self.mutex)
        return found

    cdef void unpin(self, pending_change *c) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        c.pins -= 1
        pthread_mutex_unlock(&self.mutex)

    cdef const uint8_t *piece(self, uint64_t at, uint64_t *n) noexcept nogil:
        at = at % self.data_bytes
        n[0] = min(n[0], self.data_bytes - at)
        return self.data + at

    cdef void copy_out(self, const pending_change *c, uint64_t skip, uint8_t *out, uint64_t n) noexcept nogil:
        cdef const uint8_t *p
        cdef uint64_t step
        while n:
            step = n
            p = self.piece(c.at + skip, &step)
            memcpy(out, p, step)
            out += step
            skip += step
            n -= step

    cdef void release(self, uint64_t seq, uint64_t change) noexcept nogil:
        cdef pending_change *c
        cdef pending_change *behind
        cdef pending_change *last = NULL
        cdef uint64_t k
        pthread_mutex_lock(&self.mutex)
        k = self.first
        while k < change:
            c = &self.changes[k % self.n_changes]
            if c.pins:
                break
            k += 1
            # All of a record or nothing: who looks for the rest of it would find that it is neither here nor released.
            behind = &self.changes[k % self.n_changes]
            if k == change or behind.seq != c.seq or not behind.recorded:
                self.first = k
                last = c
        if last != NULL:
            self.from_bytes = last.at + ((last.end - last.start) * CDP_SECTOR if last.kind == CDP_EXTENT_DATA else 0)
        if self.first < self.next:
            c = &self.changes[self.first % self.n_changes]
            seq = min(seq, c.seq - 1 if c.recorded else c.seq)
        self.released_seq = max(self.released_seq, seq)
        pthread_mutex_unlock(&self.mutex)

    cdef uint64_t gone(self) noexcept nogil:
        cdef uint64_t n
        pthread_mutex_lock(&self.mutex)
        n = self.first
        pthread_mutex_unlock(&self.mutex)
        return n

    cdef uint64_t released(self) noexcept nogil:
        cdef uint64_t seq
        pthread_mutex_lock(&self.mutex)
        seq = self.released_seq
        pthread_mutex_unlock(&self.mutex)
        return seq

    cdef uint64_t used_bytes(self) noexcept nogil:
        cdef uint64_t n
        pthread_mutex_lock(&self.mutex)
        n = self.to_bytes - self.from_bytes
        pthread_mutex_unlock(&self.mutex)
        return n
