"""The checksums of the blocks of a protected disk: VOLUME/disk.sums (docs/format.md), in step with what is written to
the disk.

The table says which blocks somebody else changed, and which ones rot. A change costs the checksum of its blocks, in
memory; pages are written to the file once a segment, and when the volume is closed. After a crash the blocks that were
changed since then are not known: the log says which those are.

Invariants
 1. In memory an entry is that of what the disk holds, or CDP_SUMS_UNKNOWN. Blocks that are being written to the disk
    count as not known.
 2. Pages go to the file in write() only: what they are about is on the disk, durably, and disk.state names its records.
    The header names a record when the pages are durable. So the file may be older than the disk, and is never newer.
 3. A failure of the table is none of the volume: it is off then, and what is in the file stays right by rule 2.
 4. Memory: a pointer for each 4 MiB of the disk, and MOST_PAGES pages of 4 KiB, more only while a round of the settler
    goes on.

Threading: as the .pxd says; the methods for Python from one thread at a time, beside all others.
"""
cimport cython
from libc.errno cimport ENOMEM
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from cdpcore.base.crc32c cimport cdp_crc32c
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, CDP_SUMS_UNKNOWN
from cdpcore.base.status cimport CDP_CORRUPT, CDP_OK, CDP_WOULD_WAIT, cdp_fail_os
from cdpcore.base.thread cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.log.block_sums cimport (cdp_read_checked, cdp_sums_header_get, cdp_sums_header_put, cdp_sums_load,
                                     cdp_sums_pages, cdp_sums_put)
from cdpcore.system.os_table cimport CDP_OPEN_CREATE, CDP_OPEN_RDONLY, CDP_OPEN_RDWR

cdef enum:
    MOST_PAGES = 4096       # 16 MiB, for 16 GiB of the disk that is in use
    READ_BLOCKS = 64        # that are read at once
    ALLOCATED_BYTES = 64 << 20      # a table up to this is allocated: when the device is full, nothing is left for it
    READ_TRIES = 8          # then a reader goes without a check, since its range is written again and again

cdef const char *WRONG = b"the protected disk: a block does not match its checksum"


cdef int sums_of(void *ctx, uint64_t block, uint32_t n, uint32_t *out, bint wait, cdp_status *st) noexcept nogil:
    return (<DiskSums>ctx).find(block, n, out, wait)


@cython.final
@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class DiskSums:
    """Of `disk`, which has `size_bytes`; off until open()."""

    def __cinit__(self, Os os not None, Disk disk not None, uint64_t size_bytes):
        self.fd = -1
        self.os = os
        self.table = os.table
        self.disk = disk
        self.size_bytes = size_bytes
        self.n_blocks = (size_bytes + CDP_BLOCK - 1) // CDP_BLOCK
        self.n_pages = cdp_sums_pages(self.n_blocks)
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        cdef uint64_t i
        self.close()
        for i in range(self.n_resident):
            free(self.pages[self.resident[i]])
        free(self.pages)
        free(self.dirty)
        free(self.resident)
        pthread_mutex_destroy(&self.mutex)

    cpdef close(self):
        """Idempotent."""
        self.on = False
        if self.fd >= 0:
            self.table.close(self.table.ctx, self.fd)
            self.fd = -1

    # --- opening ------------------------------------------------------------------------------------------------------

    def open(self, path: str, bytes uuid, *, bint read_only=False):
        """The table at `path` of the volume `uuid`: the record that it is of, or None where its header is not valid or
        another disk's. It is on then. Raises NotFound, Unavailable, MemoryError."""
        cdef uint8_t block[4096]
        self.open_file(path, CDP_OPEN_RDONLY if read_only else CDP_OPEN_RDWR)
        self.read_only = read_only
        if self.table.pread(self.table.ctx, self.fd, block, CDP_BLOCK, 0) != CDP_BLOCK or \
                not cdp_sums_header_get(block, &self.header) or self.header.segment or \
                self.header.n_blocks > self.n_blocks or (<const char *>self.header.volume_uuid)[:16] != uuid:
            self.close()
            return None
        # A disk that has grown: what is behind its old end is not in the table, nor in the page that it begins in.
        self.known_pages = cdp_sums_pages(self.header.known_blocks) if self.header.n_blocks == self.n_blocks else \
            min(self.header.known_blocks, self.header.n_blocks) // CDP_SUMS_PER_PAGE
        self.header.n_blocks = self.n_blocks
        self.on = True
        return self.header.seq

    def create(self, path: str, bytes uuid, uint64_t salt, uint64_t seq):
        """A new table at `path`, where no file is, that knows nothing yet of a disk that holds the records up to
        `seq`. Durable at return, but for its folder. It is on then. Raises what the OS says, MemoryError."""
        cdef cdp_status st
        cdef uint8_t block[4096]
        cdef int64_t rc
        self.open_file(path, CDP_OPEN_RDWR | CDP_OPEN_CREATE)
        memset(&self.header, 0, sizeof(self.header))
        memcpy(self.header.volume_uuid, <const uint8_t *><char *>uuid, 16)
        self.header.salt = salt
        self.header.n_blocks = self.n_blocks
        self.header.seq = seq
        self.known_pages = 0
        cdp_sums_header_put(block, &self.header)
        rc = self.table.truncate(self.table.ctx, self.fd, (1 + self.n_pages) * CDP_BLOCK)
        if rc >= 0 and (1 + self.n_pages) * CDP_BLOCK <= ALLOCATED_BYTES:
            rc = self.table.allocate(self.table.ctx, self.fd, 0, (1 + self.n_pages) * CDP_BLOCK)
        if rc >= 0:
            rc = self.table.pwrite(self.table.ctx, self.fd, block, CDP_BLOCK, 0)
        if rc >= 0:
            rc = self.table.datasync(self.table.ctx, self.fd)
        if rc < 0:
            self.close()
            check(cdp_fail_os(&st, rc, 0, b"making the table of the disk's checksums"), &st, path)
        self.on = True

    cdef int open_file(self, str path, int flags) except -1:
        cdef cdp_status st
        cdef bytes p = path.encode()
        self.path = path
        if self.pages == NULL:
            self.pages = <uint32_t **>calloc(self.n_pages + 1, sizeof(uint32_t *))
            self.dirty = <uint64_t *>calloc(self.n_pages // 64 + 1, sizeof(uint64_t))
        if self.pages == NULL or self.dirty == NULL:
            raise MemoryError()
        self.fd = self.table.open(self.table.ctx, p, flags)
        if self.fd < 0:
            check(cdp_fail_os(&st, self.fd, 0, b"opening the table of the disk's checksums"), &st, path)
        return 0

    # --- pages (mutex held) -------------------------------------------------------------------------------------------

    cdef uint32_t *page_at(self, uint64_t page) noexcept nogil:
        """In memory from now on; NULL: there is none. A page that is not known yet, or not valid, knows no block."""
        cdef uint32_t *p = self.pages[page]
        cdef void *grown
        if p != NULL:
            return p
        if self.n_resident >= MOST_PAGES:
            self.evict()
        if self.n_resident == self.resident_cap:
            grown = realloc(self.resident, (2 * self.resident_cap + 64) * sizeof(uint64_t))
            if grown == NULL:
                return NULL
            self.resident = <uint64_t *>grown
            self.resident_cap = 2 * self.resident_cap + 64
        p = <uint32_t *>malloc(CDP_SUMS_PER_PAGE * sizeof(uint32_t))
        if p == NULL:
            return NULL
        if page >= self.known_pages or not cdp_sums_load(self.table, self.fd, &self.header, page, p):
            memset(p, 0xFF, CDP_SUMS_PER_PAGE * sizeof(uint32_t))
        self.pages[page] = p
        self.resident[self.n_resident] = page
        self.n_resident += 1
        return p

    cdef void evict(self) noexcept nogil:
        """One page that the file has, too; where all of those that are looked at have changed, the table is to be
        written soon."""
        cdef uint64_t i, page
        for i in range(64):
            self.hand = (self.hand + 1) % self.n_resident
            page = self.resident[self.hand]
            if not self.dirty[page // 64] >> (page % 64) & 1 and page + 1 != self.filling and page + 1 != self.writing:
                free(self.pages[page])
                self.pages[page] = NULL
                self.n_resident -= 1
                self.resident[self.hand] = self.resident[self.n_resident]
                return
        self.full = True

    cdef void set_dirty(self, uint64_t page) noexcept nogil:
        self.dirty[page // 64] |= <uint64_t>1 << (page % 64)

    cdef void fail(self, int64_t rc) noexcept nogil:
        self.failed = <uint32_t>-rc
        self.on = False

    # --- changes of the disk ------------------------------------------------------------------------------------------

    cdef void began(self, uint64_t off, uint64_t n) noexcept nogil:
        cdef uint64_t b, first
        pthread_mutex_lock(&self.mutex)
        self.from_block = off // CDP_BLOCK
        self.to_block = (off + n + CDP_BLOCK - 1) // CDP_BLOCK
        self.changes += 1
        if self.filling:
            first = (self.filling - 1) * CDP_SUMS_PER_PAGE
            for b in range(max(self.from_block, first), min(self.to_block, first + CDP_SUMS_PER_PAGE)):
                self.touched[b - first] = True
        pthread_mutex_unlock(&self.mutex)

    cdef void put(self, uint64_t block, const uint32_t *sums, uint64_t n, bint last) noexcept nogil:
        cdef uint64_t page, k
        cdef uint32_t *p
        pthread_mutex_lock(&self.mutex)
        while n:
            page = block // CDP_SUMS_PER_PAGE
            k = min(n, CDP_SUMS_PER_PAGE - block % CDP_SUMS_PER_PAGE)
            if page < self.known_pages or page + 1 == self.filling:
                p = self.page_at(page)
                if p == NULL:
                    self.fail(-ENOMEM)
                    break
                memcpy(p + block % CDP_SUMS_PER_PAGE, sums, k * sizeof(uint32_t))
                self.set_dirty(page)
            block += k
            sums += k
            n -= k
        if last:
            self.to_block = 0
            self.changes += 1
        pthread_mutex_unlock(&self.mutex)

    cdef void reread(self, uint64_t block, bint last) noexcept nogil:
        cdef uint8_t buffer[4096]
        cdef uint8_t want = 1
        cdef uint32_t found
        self.sum_blocks(block, 1, &want, buffer, &found)
        self.put(block, &found, 1, last)

    cdef void unknown_from(self, uint64_t block) noexcept nogil:
        cdef uint64_t page = block // CDP_SUMS_PER_PAGE, i = 0, p
        pthread_mutex_lock(&self.mutex)
        self.known_pages = min(self.known_pages, page)
        self.to_scan = min(self.to_scan, page)
        while i < self.n_resident:
            p = self.resident[i]
            if p < page:
                i += 1
                continue
            self.dirty[p // 64] &= ~(<uint64_t>1 << (p % 64))
            if p + 1 == self.filling:
                memset(self.pages[p], 0xFF, CDP_SUMS_PER_PAGE * sizeof(uint32_t))
                memset(self.touched, 1, sizeof(self.touched))
                i += 1
                continue
            free(self.pages[p])
            self.pages[p] = NULL
            self.n_resident -= 1
            self.resident[i] = self.resident[self.n_resident]
        pthread_mutex_unlock(&self.mutex)

    cdef void write(self, uint64_t seq) noexcept nogil:
        cdef uint8_t block[4096]
        cdef uint64_t page, word, known
        cdef uint32_t bit
        cdef bint any = False
        cdef int64_t rc = 0
        if self.read_only:
            return
        pthread_mutex_lock(&self.mutex)
        known = min(self.known_pages * CDP_SUMS_PER_PAGE, self.n_blocks)
        self.full = False
        pthread_mutex_unlock(&self.mutex)
        for word in range(self.n_pages // 64 + 1):
            if (<const volatile uint64_t *>&self.dirty[word])[0] == 0:
                continue
            for bit in range(64):
                page = word * 64 + bit
                pthread_mutex_lock(&self.mutex)
                if not self.dirty[word] >> bit & 1:
                    pthread_mutex_unlock(&self.mutex)
                    continue
                cdp_sums_put(block, self.pages[page], min(<uint64_t>CDP_SUMS_PER_PAGE,
                                                          self.n_blocks - page * CDP_SUMS_PER_PAGE),
                             self.header.salt, page)
                self.dirty[word] &= ~(<uint64_t>1 << bit)
                self.writing = page + 1     # until then memory alone has it
                pthread_mutex_unlock(&self.mutex)
                any = True
                rc = self.table.pwrite(self.table.ctx, self.fd, block, CDP_BLOCK, (page + 1) * CDP_BLOCK)
                pthread_mutex_lock(&self.mutex)
                self.writing = 0
                pthread_mutex_unlock(&self.mutex)
                if rc < 0:
                    self.fail(rc)
                    return
        if any:
            rc = self.table.datasync(self.table.ctx, self.fd)
        if rc >= 0 and (self.header.seq != seq or self.header.known_blocks != known):
            self.header.seq = seq
            self.header.known_blocks = known
            cdp_sums_header_put(block, &self.header)
            rc = self.table.pwrite(self.table.ctx, self.fd, block, CDP_BLOCK, 0)
            if rc >= 0:
                rc = self.table.datasync(self.table.ctx, self.fd)
        if rc < 0:
            self.fail(rc)
            return
        pthread_mutex_lock(&self.mutex)
        known = self.n_resident
        while self.n_resident > MOST_PAGES and known:
            self.evict()
            known -= 1
        self.full = False
        pthread_mutex_unlock(&self.mutex)

    # --- reading ------------------------------------------------------------------------------------------------------

    cdef int find(self, uint64_t block, uint32_t n, uint32_t *out, bint wait) noexcept nogil:
        """CDP_OK, or CDP_WOULD_WAIT."""
        cdef uint64_t page
        cdef uint32_t i
        cdef uint32_t *p
        cdef int rc = CDP_OK
        pthread_mutex_lock(&self.mutex)
        for i in range(n):
            page = (block + i) // CDP_SUMS_PER_PAGE
            out[i] = CDP_SUMS_UNKNOWN
            if page >= self.known_pages or self.from_block <= block + i < self.to_block:
                continue
            if self.pages[page] == NULL and not wait:
                rc = CDP_WOULD_WAIT
                break
            p = self.page_at(page)
            if p != NULL:
                out[i] = p[(block + i) % CDP_SUMS_PER_PAGE]
        pthread_mutex_unlock(&self.mutex)
        return rc

    cdef int read_checked(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, cdp_status *st) noexcept nogil:
        cdef uint64_t before
        cdef uint32_t i
        cdef int rc
        # What the file does not have would read as zeros here; a disk that was cut while it was open is an error.
        if self.on and self.table.size(self.table.ctx, self.disk.fd) >= <int64_t>(off + n):
            for i in range(READ_TRIES):
                before = (<const volatile uint64_t *>&self.changes)[0]
                rc = cdp_read_checked(self.disk.table, self.disk.fd, buf, n, off, wait, sums_of, <void *>self, WRONG,
                                      st)
                if rc != CDP_CORRUPT or (<const volatile uint64_t *>&self.changes)[0] == before:
                    return rc
        return self.disk.read(buf, off, n, wait, st)

    # --- filling ------------------------------------------------------------------------------------------------------

    cdef int sum_blocks(self, uint64_t first, uint32_t n, const uint8_t *want, uint8_t *buffer,
                        uint32_t *out) noexcept nogil:
        """What the disk holds in blocks [first, first + n) that are wanted, through a buffer of min(n, READ_BLOCKS)
        blocks. One that cannot be read is not known."""
        cdef uint32_t i = 0, k, j
        cdef uint64_t at, size
        cdef int64_t got
        while i < n:
            if not want[i]:
                i += 1
                continue
            k = 1
            while i + k < n and k < READ_BLOCKS and want[i + k]:
                k += 1
            at = (first + i) * CDP_BLOCK
            size = min(<uint64_t>k * CDP_BLOCK, self.size_bytes - at)
            got = self.table.pread(self.table.ctx, self.disk.fd, buffer, size, at)
            memset(buffer + size, 0, k * CDP_BLOCK - size)
            for j in range(k):      # less than it has: it was cut while it was open
                out[i + j] = cdp_crc32c(0, buffer + j * CDP_BLOCK, CDP_BLOCK) if got == <int64_t>size else \
                    CDP_SUMS_UNKNOWN
            i += k
        return CDP_OK

    cdef bint pass_holes(self, uint64_t *budget) noexcept nogil:
        """Pages of holes, of which the file has nothing either, become known at once. False: there are none next."""
        cdef uint64_t start, end, page, changes, stop = self.n_pages
        cdef bint passed
        cdef int rc
        pthread_mutex_lock(&self.mutex)
        page = self.known_pages
        changes = self.changes
        passed = self.to_block <= self.from_block
        pthread_mutex_unlock(&self.mutex)
        if not passed:
            return False
        rc = self.table.next_data(self.table.ctx, self.disk.fd, page * CDP_SUMS_PER_PAGE * CDP_BLOCK, &start, &end)
        if rc > 0:
            stop = min(stop, start // (CDP_SUMS_PER_PAGE * CDP_BLOCK))
        if rc >= 0:
            rc = self.table.next_data(self.table.ctx, self.fd, (page + 1) * CDP_BLOCK, &start, &end)
            if rc > 0:
                stop = min(stop, max(start // CDP_BLOCK, 1) - 1)
        if rc < 0 or stop <= page:
            return False
        pthread_mutex_lock(&self.mutex)
        passed = self.changes == changes and self.known_pages == page
        if passed:
            self.known_pages = stop
        pthread_mutex_unlock(&self.mutex)
        budget[0] -= min(budget[0], <uint64_t>CDP_BLOCK)
        return passed

    cdef bint pass_known(self, uint64_t page, uint64_t *budget) noexcept nogil:
        """Pages from `page` on that are holes of the table know all of their blocks (cdp_sums_load): they need not be
        looked at one by one, 270,000 of them in a disk of 1 TiB. False: this one does."""
        cdef uint64_t start, end, i, stop = self.n_pages
        cdef bint passed
        cdef int rc = self.table.next_data(self.table.ctx, self.fd, (page + 1) * CDP_BLOCK, &start, &end)
        if rc > 0:
            stop = min(stop, max(start // CDP_BLOCK, 1) - 1)
        if rc < 0 or stop <= page:
            return False
        pthread_mutex_lock(&self.mutex)
        for i in range(self.n_resident):    # memory may know less than the file
            if self.resident[i] >= page:
                stop = min(stop, self.resident[i])
        passed = stop > page and self.to_scan == page + 1 and self.known_pages == self.n_pages
        if passed:
            self.to_scan = stop
        pthread_mutex_unlock(&self.mutex)
        budget[0] -= min(budget[0], <uint64_t>CDP_BLOCK)
        return passed

    cdef int64_t fill_page(self, uint64_t page) noexcept nogil:
        """What the page does not know is read from the disk: so many bytes, at most; < 0: there is no memory."""
        cdef uint64_t first = page * CDP_SUMS_PER_PAGE
        cdef uint32_t i, n = <uint32_t>min(<uint64_t>CDP_SUMS_PER_PAGE, self.n_blocks - first)
        cdef uint32_t found[1023]
        cdef uint8_t want[1023]
        cdef uint32_t *p
        cdef uint8_t *buffer = <uint8_t *>malloc(READ_BLOCKS * CDP_BLOCK)
        cdef bint any = False, new
        if buffer == NULL:
            return -ENOMEM
        pthread_mutex_lock(&self.mutex)
        new = page >= self.known_pages
        p = self.page_at(page)
        if p != NULL:
            self.filling = page + 1
            for i in range(n):
                want[i] = p[i] == CDP_SUMS_UNKNOWN
                self.touched[i] = self.from_block <= first + i < self.to_block
                any = any or want[i]
        pthread_mutex_unlock(&self.mutex)
        if p != NULL and any:
            self.sum_blocks(first, n, want, buffer, found)
        free(buffer)
        pthread_mutex_lock(&self.mutex)
        if p != NULL and any:
            for i in range(n):
                if want[i] and not self.touched[i] and p[i] == CDP_SUMS_UNKNOWN:
                    p[i] = found[i]
            self.set_dirty(page)
        if p != NULL and new and self.known_pages == page:
            self.known_pages = page + 1
        self.filling = 0
        pthread_mutex_unlock(&self.mutex)
        if p == NULL:
            return -ENOMEM
        return n * CDP_BLOCK if any else CDP_BLOCK

    def fill(self, uint64_t most_bytes) -> bool:
        """Read some of what is not known yet from the disk, at most so many bytes. True: there is more. The table is
        written by the settler."""
        cdef uint64_t budget = most_bytes, page = 0
        cdef int64_t n
        cdef bint new, more
        with nogil:
            while budget and self.next_to_fill(&page, &new):
                if self.pass_holes(&budget) if new else self.pass_known(page, &budget):
                    continue
                n = self.fill_page(page)
                if n < 0:
                    self.fail(n)
                    break
                budget -= min(budget, <uint64_t>n)
            more = self.lacks_some()
        return more

    cdef bint next_to_fill(self, uint64_t *page, bint *new) noexcept nogil:
        """False: there is none. new: it and those behind it are not known yet."""
        cdef bint found
        pthread_mutex_lock(&self.mutex)
        found = self.on and (self.known_pages < self.n_pages or self.to_scan < self.n_pages)
        page[0] = self.known_pages
        new[0] = self.known_pages < self.n_pages
        if found and not new[0]:
            page[0] = self.to_scan
            self.to_scan += 1
        pthread_mutex_unlock(&self.mutex)
        return found

    cdef bint lacks_some(self) noexcept nogil:
        cdef bint some
        pthread_mutex_lock(&self.mutex)
        some = self.on and (self.known_pages < self.n_pages or self.to_scan < self.n_pages)
        pthread_mutex_unlock(&self.mutex)
        return some

    def wants_filling(self) -> bool:
        """Whether there may be blocks that are not known."""
        return self.lacks_some()

    # --- comparing ----------------------------------------------------------------------------------------------------

    def forget(self, uint64_t offset, uint64_t length):
        """The blocks of that range, in bytes, are not known from now on."""
        cdef uint64_t b
        cdef uint32_t *p
        if length >= LONG_BYTES:
            self.unknown_from(offset // CDP_BLOCK)
        with nogil:
            pthread_mutex_lock(&self.mutex)
            for b in range(offset // CDP_BLOCK, min(self.n_blocks, (offset + length + CDP_BLOCK - 1) // CDP_BLOCK)):
                if b // CDP_SUMS_PER_PAGE >= self.known_pages:
                    break
                p = self.page_at(b // CDP_SUMS_PER_PAGE)
                if p == NULL:
                    self.fail(-ENOMEM)
                    break
                p[b % CDP_SUMS_PER_PAGE] = CDP_SUMS_UNKNOWN
                self.set_dirty(b // CDP_SUMS_PER_PAGE)
            self.to_scan = 0
            pthread_mutex_unlock(&self.mutex)

    cdef bint is_hole(self, int fd, uint64_t off, uint64_t n) noexcept nogil:
        cdef uint64_t start, end
        cdef int rc = self.table.next_data(self.table.ctx, fd, off, &start, &end)
        return rc == 0 or rc > 0 and start >= off + n

    def differences(self, uint64_t page) -> list:
        """[(start, end in bytes, whether it was known)] of the blocks that the disk does not hold as the table says, or
        that are not known, of the 1023 of `page`; those that touch are one. Nothing may be written to the disk
        meanwhile."""
        cdef uint64_t first = page * CDP_SUMS_PER_PAGE
        cdef uint32_t i = 0, n = <uint32_t>min(<uint64_t>CDP_SUMS_PER_PAGE, self.n_blocks - first)
        cdef uint32_t found[1023]
        cdef uint32_t known[1023]
        cdef uint8_t want[1023]
        cdef uint64_t at
        cdef uint8_t *buffer
        cdef bint is_known
        cdef list out = []
        if self.pages[page] == NULL and page < self.known_pages and self.is_hole(self.fd, (page + 1) * CDP_BLOCK,
                                                                                 CDP_BLOCK) and \
                self.is_hole(self.disk.fd, first * CDP_BLOCK, n * CDP_BLOCK):
            return []
        buffer = <uint8_t *>malloc(READ_BLOCKS * CDP_BLOCK)
        if buffer == NULL:
            raise MemoryError()
        memset(want, 1, sizeof(want))
        with nogil:
            self.find(first, n, known, True)
            self.sum_blocks(first, n, want, buffer, found)
        free(buffer)
        while i < n:
            if known[i] == found[i] and known[i] != CDP_SUMS_UNKNOWN:
                i += 1
                continue
            is_known = known[i] != CDP_SUMS_UNKNOWN
            at = (first + i) * CDP_BLOCK
            while i < n and (known[i] != CDP_SUMS_UNKNOWN) == is_known and not (is_known and known[i] == found[i]):
                i += 1
            out.append((at, min((first + i) * CDP_BLOCK, self.size_bytes), is_known))
        return out

    def stats(self) -> dict:
        """on: whether there is a table and it could be read and written; n_blocks: of the disk; unknown_blocks: those
        of them that the table is known not to know; n_pages, known_pages: of 1023 blocks; seq: the record that the
        file is of; errno of what failed."""
        cdef uint64_t i, page, unknown
        cdef uint32_t k
        cdef bint on
        with nogil:
            pthread_mutex_lock(&self.mutex)
            on = self.on
            unknown = self.n_blocks - min(self.known_pages * CDP_SUMS_PER_PAGE, self.n_blocks)
            for i in range(self.n_resident):
                page = self.resident[i]
                if page < self.known_pages:
                    for k in range(<uint32_t>min(<uint64_t>CDP_SUMS_PER_PAGE,
                                                 self.n_blocks - page * CDP_SUMS_PER_PAGE)):
                        unknown += self.pages[page][k] == CDP_SUMS_UNKNOWN
            pthread_mutex_unlock(&self.mutex)
        return {"on": bool(on), "n_blocks": self.n_blocks, "unknown_blocks": unknown if on else self.n_blocks,
                "n_pages": self.n_pages, "known_pages": self.known_pages, "seq": self.header.seq,
                "errno": self.failed}

    def damaged_pages(self) -> list:
        """The numbers of the pages in the file that are not valid, of those that it should know."""
        cdef uint32_t sums[1023]
        cdef uint64_t page = 0, start = 0, end = 0
        cdef int rc
        cdef bint ok
        cdef list out = []
        while page < self.known_pages:
            with nogil:
                ok = True
                rc = 1
                if (page + 1) * CDP_BLOCK >= end:       # a hole is valid
                    rc = self.table.next_data(self.table.ctx, self.fd, (page + 1) * CDP_BLOCK, &start, &end)
                    if rc > 0:
                        page = max(page, start // CDP_BLOCK - 1)
                if rc and page < self.known_pages:
                    ok = cdp_sums_load(self.table, self.fd, &self.header, page, sums)
            if rc == 0:
                break
            if not ok:
                out.append(page)
            page += 1
        return out
