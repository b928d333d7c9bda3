"""What announced changes will overwrite, read for many of them at once.

A front end that has received several changes announces them all before it carries out the first (expect). That one then
reads the old content of all: one submission to the device, in which adjacent ranges are one read. So a device that
takes 100 us for a read takes them side by side, and a virtual machine tells its host of them once. A stream is not read
so, but ahead of its writer into the system's memory.

Reading ahead changes nothing of the order in which things become safe: what is taken from here goes into the log like
what is read on the spot, and the disk is written when that is durable (settler.pyx).

Invariants
 1. What take() gives is what the disk holds with Pending, now: it was read from the disk where nothing was pending, and
    since then no record has touched the range and no restore was begun or written back (the generation). The caller
    holds the range, so nothing can touch it meanwhile either.
 2. It is a help only: where it has nothing, or could not read, the caller reads, and reports what fails.

Threading: any thread, no GIL. The mutex is held while a batch is read; expect() does not wait for it.
"""
cimport cython
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.format cimport CDP_SECTOR
from cdpcore.base.stages cimport CDP_STAGE_FILE_READ, cdp_source_add, cdp_source_of, cdp_stage_add
from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.base.thread cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_trylock,
                                  pthread_mutex_unlock)
from cdpcore.index.versions cimport ALL, drop, pieces
from cdpcore.system.io_queue cimport CDP_IO_READ, cdp_io

cdef enum:
    RANGE_BYTES = 64 << 10      # longer ones are announced to the system, which reads them in large pieces
    STREAM_BYTES = 512 << 10    # so much one behind the other is a stream
    AHEAD_BYTES = 4 << 20       # read ahead of it
    HINT_BYTES = 1 << 20        # what a hint should ask for: Linux takes no more than a request's worth of it
    BREAK_STALE = 1             # see OldContent.break_rule

RULES = {"stale": BREAK_STALE}


@cython.final
@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class OldContent:
    """Made by BeforeImages; reader: how the disk is read on the spot."""

    def __cinit__(self, Os os not None, DiskReader reader not None):
        self.os = os
        self.reader = reader
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        if self.queue != NULL:
            self.os.table.free_queue(self.os.table.ctx, self.queue)
        free(self.data)
        pthread_mutex_destroy(&self.mutex)

    def break_rule(self, rule: str):
        """For tests of the tests: from now on what was read is taken whatever was written there since ("stale")."""
        self.broken |= <uint32_t>RULES[rule]

    @property
    def taken(self) -> int:
        """How many changes got their old content from here."""
        return self.n_taken

    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil:
        cdef announced *a
        if pthread_mutex_trylock(&self.mutex):
            return
        if self.is_stream(off, n):
            while self.ahead_end < off + n + AHEAD_BYTES and self.ahead_end < self.reader.disk.size_bytes:
                self.reader.disk.expect(self.ahead_end, min(<uint64_t>HINT_BYTES,
                                                            self.reader.disk.size_bytes - self.ahead_end))
                self.ahead_end += HINT_BYTES
        elif n > RANGE_BYTES:
            self.reader.disk.expect(off, min(n, <uint64_t>HINT_BYTES))
        elif off % CDP_SECTOR == 0 and n % CDP_SECTOR == 0:
            if self.n == RANGES and self.n_read:    # nobody came for what was read
                self.n = self.n_read = 0
                self.bytes = 0
            if self.n < RANGES and self.bytes + n <= BATCH_BYTES:
                a = &self.ranges[self.n]
                a.start = off // CDP_SECTOR
                a.end = (off + n) // CDP_SECTOR
                a.data = NULL
                self.n += 1
                self.bytes += n
        pthread_mutex_unlock(&self.mutex)

    cdef bint is_stream(self, uint64_t off, uint64_t n) noexcept nogil:
        if off != self.stream_end:
            self.stream_bytes = 0
            self.ahead_end = off
        self.stream_end = off + n
        self.stream_bytes += n
        self.ahead_end = max(self.ahead_end, off)
        return self.stream_bytes >= STREAM_BYTES

    cdef announced *find(self, uint64_t start, uint64_t end) noexcept nogil:
        cdef uint32_t i
        for i in range(self.n):
            if self.ranges[i].start == start and self.ranges[i].end == end:
                return &self.ranges[i]
        return NULL

    cdef bint take(self, uint8_t *buf, uint64_t start, uint64_t end) noexcept nogil:
        cdef announced *a
        cdef bint good = False
        pthread_mutex_lock(&self.mutex)
        a = self.find(start, end)
        if a != NULL and a >= &self.ranges[self.n_read]:
            self.read_together()
            a = self.find(start, end)
        if a != NULL:
            if a.data != NULL:
                good = a.generation == self.reader.current_generation() and (
                    self.reader.versions.untouched(&a.m, start, end) or self.broken & BREAK_STALE)
            if good:
                memcpy(buf, a.data, (end - start) * CDP_SECTOR)
                self.n_taken += 1
            a.start = a.end = 0     # once only: it is about to change
        pthread_mutex_unlock(&self.mutex)
        return good

    cdef bint look(self, announced *a) noexcept nogil:
        """Only the disk has it: nothing is pending there, and no restore is being written back."""
        cdef pieces p
        cdef cdp_status st
        cdef bint only
        a.generation = self.reader.current_generation()
        if self.reader.restoring or self.reader.versions.resolve_seqs(
                self.reader.pending.released(), a.start, a.end, ALL, &p, &a.m, &st) != CDP_OK:
            return False
        only = p.n == 1 and p.at[0].loc == 0
        drop(&p)
        return only

    cdef void read_together(self) noexcept nogil:
        """What was read before goes; what is announced is read, in the order of the disk."""
        cdef cdp_io io[RANGES]
        cdef cdp_io *done[RANGES]
        cdef uint32_t io_of[RANGES]
        cdef announced moved
        cdef announced *a
        cdef uint8_t *to
        cdef uint32_t n = self.n - self.n_read, n_io = 0, begun = 0, ended = 0, i, k
        cdef uint64_t began
        cdef int last = -1
        for i in range(n):          # sorted: there are few
            moved = self.ranges[self.n_read + i]
            k = i
            while k and self.ranges[k - 1].start > moved.start:
                self.ranges[k] = self.ranges[k - 1]
                k -= 1
            self.ranges[k] = moved
        self.n = self.n_read = n
        self.bytes = 0
        if self.data == NULL:
            self.data = <uint8_t *>malloc(BATCH_BYTES)
        if self.queue == NULL:
            self.queue = self.os.table.queue(self.os.table.ctx, RANGES)
        if self.data == NULL or self.queue == NULL:
            return
        to = self.data
        for i in range(n):
            a = &self.ranges[i]
            if not self.look(a):
                last = -1
                continue
            if last < 0 or self.ranges[last].end != a.start:
                io[n_io].op = CDP_IO_READ
                io[n_io].durable = 0
                io[n_io].fd = self.reader.disk.fd
                io[n_io].buf = to
                io[n_io].n = 0
                io[n_io].off = a.start * CDP_SECTOR
                io[n_io].result = -1
                io[n_io].next = NULL
                if n_io:
                    io[n_io - 1].next = &io[n_io]
                n_io += 1
            last = <int>i
            io_of[i] = n_io - 1
            a.data = to
            io[n_io - 1].n += (a.end - a.start) * CDP_SECTOR
            to += (a.end - a.start) * CDP_SECTOR
        began = cdp_monotonic_ns()
        while ended < n_io:
            if begun < n_io:
                begun += self.os.table.submit(self.os.table.ctx, self.queue, &io[begun], n_io - begun)
            k = self.os.table.complete(self.os.table.ctx, self.queue, done, RANGES, 1) if begun > ended else 0
            if k == 0:              # no memory, or in the child of a fork: nothing of it is in flight
                break
            ended += k
        began = cdp_monotonic_ns() - began
        for i in range(n_io):
            if io[i].result == <int64_t>io[i].n:
                cdp_stage_add(self.reader.disk.stages.s, CDP_STAGE_FILE_READ, began)
                cdp_source_add(self.reader.disk.stages.s, cdp_source_of(began, io[i].n), io[i].n)
        for i in range(n):
            if self.ranges[i].data != NULL and io[io_of[i]].result != <int64_t>io[io_of[i]].n:
                self.ranges[i].data = NULL
