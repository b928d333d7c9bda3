# cython: autotestdict=False
"""An operating system some of whose files are here in part: what is missing is fetched when it is read.

A partial file is a sparse file of its full size, with a bit for each block of 4096 bytes that says whether it is here.
A read of blocks that are all here costs a lock for reading, a look at the bits, and the read. Else `fetch` is called,
which writes what is missing into the file and says that it is here; then the read is tried again. All else is the
machine's own table.

Invariants
 1. A block is read only while its bit is set, and its bit is set only after its content was written. drop() takes the
    bit away before it frees the content. Both under `bits`.
 2. What a reader waits for is not dropped between its coming and the read: else readers who together want more than
    is kept would take it from each other without end.
 3. No lock is held while `fetch` runs. It may take long, and it takes the GIL: nobody may wait for a reader's lock with
    the GIL held.

Threading: add() before the file is opened; everything else on any thread.
"""
cimport cython
from libc.errno cimport EAGAIN, EIO, EMFILE, ESTALE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset
from posix.stat cimport fstat, struct_stat
from cdpcore.base.thread cimport (pthread_rwlock_destroy, pthread_rwlock_init, pthread_rwlock_rdlock, pthread_rwlock_t,
                                  pthread_rwlock_unlock, pthread_rwlock_wrlock)
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport CDP_OPEN_RDWR, cdp_os, cdp_os_posix

import os as _os

from cdpcore.base.errors import InvalidRequest, NotFound

cdef enum:
    BLOCK = 4096
    MOST_HANDLES = 1 << 16
    TRIES = 4           # somebody else who fetches the same may fail
    PART_BYTES = 64 << 10

cdef uint64_t NONE = <uint64_t>-1


cdef struct span:
    uint64_t start, end


cdef struct partial_file:
    uint64_t device, inode
    uint64_t n_blocks
    uint8_t *here
    span *data              # where there is anything but a hole, ascending
    uint32_t n_data


cdef struct wanted:             # on its reader's stack
    int32_t number              # of the file + 1
    uint64_t first, end         # blocks
    wanted *next


cdef struct partial:
    cdp_os own
    const cdp_os *real
    void *owner                 # the PartialOs
    pthread_rwlock_t bits       # guards the files, their bits and what is wanted
    wanted *wanted              # by those who wait for it
    partial_file *files
    uint32_t n_files, room
    int32_t *by_handle          # number of the file + 1, by handle; 0: a file that is here


@cython.final
@cython.no_gc_clear
cdef class PartialOs(Os):
    """Args: fetch(file, first_block, end_block): some of these blocks of the file with that number are missing; at
    return it has called have() for them, or gives an errno. Called on any thread."""

    cdef partial p
    cdef object fetch

    def __cinit__(self, fetch):
        self.p.real = cdp_os_posix()
        self.p.own = self.p.real[0]
        self.p.own.ctx = &self.p
        self.p.owner = <void *>self
        self.p.own.open = _open
        self.p.own.close = _close
        self.p.own.pread = _pread
        self.p.own.pread_now = _pread_now
        self.p.own.next_data = _next_data
        self.p.own.expect = _expect
        self.table = &self.p.own
        self.fetch = fetch
        pthread_rwlock_init(&self.p.bits, NULL)
        self.p.by_handle = <int32_t *>calloc(MOST_HANDLES, sizeof(int32_t))
        if self.p.by_handle == NULL:
            raise MemoryError()

    def __dealloc__(self):
        for i in range(self.p.n_files):
            free(self.p.files[i].here)
            free(self.p.files[i].data)
        free(self.p.files)
        free(self.p.by_handle)
        pthread_rwlock_destroy(&self.p.bits)

    def add(self, path: str, data) -> int:
        """The file at `path`, which is there with its full size and was not opened yet, is a partial one. data: a list
        of (start, end in bytes), ascending and disjoint: all else is a hole, and needs no fetching. Returns its number.
        Raises NotFound."""
        cdef partial_file f
        cdef struct_stat status
        cdef list spans = list(data)
        cdef Py_ssize_t i
        cdef int fd
        cdef bytes raw = _os.fsencode(path)
        memset(&f, 0, sizeof(f))
        fd = self.p.real.open(self.p.real.ctx, raw, 0)
        if fd < 0:
            raise NotFound(f"{path}: cannot be opened", "")
        fstat(fd, &status)
        self.p.real.close(self.p.real.ctx, fd)
        f.device, f.inode = status.st_dev, status.st_ino
        f.n_blocks = (<uint64_t>status.st_size + BLOCK - 1) // BLOCK
        f.n_data = len(spans)
        f.here = <uint8_t *>malloc(f.n_blocks // 8 + 1)
        f.data = <span *>malloc((len(spans) + 1) * sizeof(span))
        if f.here == NULL or f.data == NULL:
            free(f.here)
            free(f.data)
            raise MemoryError()
        memset(f.here, 0xff, f.n_blocks // 8 + 1)
        for i in range(len(spans)):
            f.data[i].start, f.data[i].end = spans[i]
            put_bits(&f, f.data[i].start // BLOCK, (f.data[i].end + BLOCK - 1) // BLOCK, False)
        pthread_rwlock_wrlock(&self.p.bits)
        try:
            if self.p.n_files == self.p.room:
                more = <partial_file *>realloc(self.p.files, (2 * self.p.room + 16) * sizeof(partial_file))
                if more == NULL:
                    free(f.here)
                    free(f.data)
                    raise MemoryError()
                self.p.files, self.p.room = more, 2 * self.p.room + 16
            self.p.files[self.p.n_files] = f
            self.p.n_files += 1
            return self.p.n_files - 1
        finally:
            pthread_rwlock_unlock(&self.p.bits)

    cdef partial_file *file(self, uint32_t number) except NULL:
        if number >= self.p.n_files:
            raise InvalidRequest(f"no partial file has the number {number}")
        return &self.p.files[number]

    def have(self, uint32_t number, uint64_t first, uint64_t end):
        """The blocks first..end - 1 are in the file now."""
        cdef partial_file *f = self.file(number)
        with nogil:
            pthread_rwlock_wrlock(&self.p.bits)
            put_bits(f, first, end, True)
            pthread_rwlock_unlock(&self.p.bits)

    def missing(self, uint32_t number, uint64_t first, uint64_t end) -> list:
        """(first, end) of what is missing of these blocks."""
        cdef partial_file *f = self.file(number)
        cdef list found = []
        cdef uint64_t at, end_of_last = NONE
        pthread_rwlock_rdlock(&self.p.bits)
        for at in range(first, min(end, f.n_blocks)):
            if not f.here[at // 8] >> at % 8 & 1:
                if at == end_of_last:
                    found[len(found) - 1] = (found[len(found) - 1][0], at + 1)
                else:
                    found.append((at, at + 1))
                end_of_last = at + 1
        pthread_rwlock_unlock(&self.p.bits)
        return found

    def drop(self, uint32_t number, path: str, uint64_t first, uint64_t end) -> bool:
        """The blocks are not here any more, and take no space. False: somebody waits for one of them, and all stay."""
        cdef partial_file *f = self.file(number)
        cdef bytes raw = _os.fsencode(path)
        cdef const char *at = raw
        cdef int fd
        cdef bint free_now
        with nogil:
            pthread_rwlock_wrlock(&self.p.bits)
            free_now = not is_wanted(&self.p, <int32_t>number + 1, first, end)
            if free_now:
                put_bits(f, first, end, False)
                fd = self.p.real.open(self.p.real.ctx, at, CDP_OPEN_RDWR)
                if fd >= 0:
                    self.p.real.punch(self.p.real.ctx, fd, first * BLOCK, (end - first) * BLOCK)
                    self.p.real.close(self.p.real.ctx, fd)
            pthread_rwlock_unlock(&self.p.bits)
        return free_now


cdef int ask(partial *p, uint32_t number, uint64_t first, uint64_t end) noexcept with gil:
    try:
        return -<int>(<PartialOs>p.owner).fetch(number, first, end)
    except BaseException:
        return -EIO


cdef bint is_wanted(const partial *p, int32_t number, uint64_t first, uint64_t end) noexcept nogil:
    cdef const wanted *w = p.wanted
    while w != NULL:
        if w.number == number and w.first < end and first < w.end:
            return True
        w = w.next
    return False


cdef void want(partial *p, wanted *w) noexcept nogil:
    pthread_rwlock_wrlock(&p.bits)
    w.next = p.wanted
    p.wanted = w
    pthread_rwlock_unlock(&p.bits)


cdef void want_no_more(partial *p, wanted *w) noexcept nogil:
    cdef wanted **at = &p.wanted
    pthread_rwlock_wrlock(&p.bits)
    while at[0] != w:
        at = &at[0].next
    at[0] = w.next
    pthread_rwlock_unlock(&p.bits)


cdef void put_bits(partial_file *f, uint64_t first, uint64_t end, bint here) noexcept nogil:
    cdef uint64_t at
    for at in range(first, min(end, f.n_blocks)):
        if here:
            f.here[at // 8] |= <uint8_t>(1 << at % 8)
        else:
            f.here[at // 8] &= <uint8_t>~(1 << at % 8)


cdef bint all_here(const partial_file *f, uint64_t off, uint64_t n, uint64_t *first, uint64_t *end) noexcept nogil:
    """Else *first..*end are the blocks from the first to the last that is missing."""
    cdef uint64_t at, stop = min((off + n + BLOCK - 1) // BLOCK, f.n_blocks)
    cdef bint found = False
    for at in range(off // BLOCK, stop):
        if not f.here[at // 8] >> at % 8 & 1:
            if not found:
                first[0] = at
            found = True
            end[0] = at + 1
    return not found


cdef int32_t handle_of(partial *p, int fd) noexcept nogil:
    return p.by_handle[fd] if 0 <= fd < MOST_HANDLES else 0


cdef int _open(void *ctx, const char *path, uint32_t flags) noexcept nogil:
    cdef partial *p = <partial *>ctx
    cdef struct_stat status
    cdef uint32_t i
    cdef int fd = p.real.open(p.real.ctx, path, flags)
    if fd < 0:
        return fd
    if fd >= MOST_HANDLES or fstat(fd, &status):
        p.real.close(p.real.ctx, fd)
        return -EMFILE
    p.by_handle[fd] = 0
    pthread_rwlock_rdlock(&p.bits)
    for i in range(p.n_files):
        if p.files[i].inode == status.st_ino and p.files[i].device == status.st_dev:
            p.by_handle[fd] = <int32_t>i + 1
            break
    pthread_rwlock_unlock(&p.bits)
    return fd


cdef int _close(void *ctx, int fd) noexcept nogil:
    cdef partial *p = <partial *>ctx
    if 0 <= fd < MOST_HANDLES:
        p.by_handle[fd] = 0
    return p.real.close(p.real.ctx, fd)


cdef int64_t _read(partial *p, int fd, void *buf, uint64_t n, uint64_t off, bint wait) noexcept nogil:
    cdef int32_t number = handle_of(p, fd)
    cdef uint64_t done = 0, step
    cdef int64_t got = 0
    cdef wanted mine
    if not number:
        return p.real.pread(p.real.ctx, fd, buf, n, off) if wait else \
            p.real.pread_now(p.real.ctx, fd, buf, n, off)
    got = _read_part(p, number, fd, buf, n, off, wait, 1)
    if got != -ESTALE or not wait:
        return got if got != -ESTALE else -EAGAIN
    while done < n:     # a part at a time, so that what is wanted and stays is little
        step = min(n - done, <uint64_t>PART_BYTES)
        mine.number = number
        mine.first, mine.end = (off + done) // BLOCK, (off + done + step + BLOCK - 1) // BLOCK
        want(p, &mine)
        got = _read_part(p, number, fd, <uint8_t *>buf + done, step, off + done, True, TRIES)
        want_no_more(p, &mine)
        if got < 0:
            return got if got != -ESTALE else -EIO
        done += <uint64_t>got
        if <uint64_t>got < step:
            break
    return <int64_t>done


cdef int64_t _read_part(partial *p, int32_t number, int fd, void *buf, uint64_t n, uint64_t off, bint wait,
                        int tries) noexcept nogil:
    """-ESTALE: it is not here, after so many tries to fetch it."""
    cdef uint64_t first = 0, end = 0
    cdef int64_t got
    cdef int i, rc
    for i in range(tries + 1):
        pthread_rwlock_rdlock(&p.bits)
        if all_here(&p.files[number - 1], off, n, &first, &end):
            got = p.real.pread(p.real.ctx, fd, buf, n, off) if wait else \
                p.real.pread_now(p.real.ctx, fd, buf, n, off)
            pthread_rwlock_unlock(&p.bits)
            return got
        pthread_rwlock_unlock(&p.bits)
        if not wait or i == tries:
            break
        rc = ask(p, <uint32_t>(number - 1), first, end)
        if rc < 0:
            return rc
    return -ESTALE


cdef int64_t _pread(void *ctx, int fd, void *buf, uint64_t n, uint64_t off) noexcept nogil:
    cdef partial *p = <partial *>ctx
    return _read(p, fd, buf, n, off, True)


cdef int64_t _pread_now(void *ctx, int fd, void *buf, uint64_t n, uint64_t off) noexcept nogil:
    cdef partial *p = <partial *>ctx
    return _read(p, fd, buf, n, off, False)


cdef int _next_data(void *ctx, int fd, uint64_t off, uint64_t *start, uint64_t *end) noexcept nogil:
    cdef partial *p = <partial *>ctx
    cdef int32_t number = handle_of(p, fd)
    cdef partial_file *f
    cdef uint32_t i
    cdef int found = 0
    if not number:
        return p.real.next_data(p.real.ctx, fd, off, start, end)
    pthread_rwlock_rdlock(&p.bits)
    f = &p.files[number - 1]
    for i in range(f.n_data):
        if f.data[i].end > off:
            start[0] = max(f.data[i].start, off)
            end[0] = f.data[i].end
            found = 1
            break
    pthread_rwlock_unlock(&p.bits)
    return found


cdef void _expect(void *ctx, int fd, uint64_t off, uint64_t n) noexcept nogil:
    cdef partial *p = <partial *>ctx
    if not handle_of(p, fd):
        p.real.expect(p.real.ctx, fd, off, n)
