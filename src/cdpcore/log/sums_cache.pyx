"""The checksums of the blocks of sealed segments: a bounded cache of the pages of their tables.

A page is 4 KiB and covers 4 MiB of a log file. Direct-mapped, so finding one is an index and a compare; PAGES of them
cover 4 GiB of log that is being read. One that is not here costs three reads of 4 KiB.

Threading: any thread, no GIL.
"""
cimport cython
from libc.errno cimport ENOMEM
from libc.stdio cimport snprintf
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from cdpcore.base.format cimport CDP_BLOCK, CDP_SUMS_PER_PAGE
from cdpcore.base.status cimport CDP_CORRUPT, CDP_OK, CDP_WOULD_WAIT, cdp_fail, cdp_fail_os
from cdpcore.base.thread cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.log.block_sums cimport cdp_sums_header_get, cdp_sums_load


cdef enum:
    PAGES = 1024


@cython.no_gc_clear
cdef class SegmentSums:
    """`directory`: VOLUME/log."""

    def __cinit__(self, Os os not None, bytes directory):
        self.os = os
        self.table = os.table
        self.directory = directory
        self.directory_c = directory
        self.base_fd = -1
        pthread_mutex_init(&self.mutex, NULL)
        self.pages = <sums_page *>calloc(PAGES, sizeof(sums_page))
        if self.pages == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef uint32_t i
        if self.pages != NULL:
            for i in range(PAGES):
                free(self.pages[i].sums)
        free(self.pages)
        if self.base_fd >= 0:
            self.table.close(self.table.ctx, self.base_fd)
        pthread_mutex_destroy(&self.mutex)

    cdef int find(self, uint32_t number, int fd, uint64_t block, uint32_t n, uint32_t *out, bint wait,
                  cdp_status *st) noexcept nogil:
        cdef sums_page *p
        cdef uint64_t page, first
        cdef uint32_t k
        cdef bint here
        cdef int rc
        while n:
            page = block // CDP_SUMS_PER_PAGE
            first = block % CDP_SUMS_PER_PAGE
            k = <uint32_t>min(<uint64_t>n, CDP_SUMS_PER_PAGE - first)
            p = &self.pages[(number * 64 + page) % PAGES]       # a segment's pages lie side by side
            pthread_mutex_lock(&self.mutex)
            here = p.sums != NULL and p.number == number and p.page == page
            if here:
                memcpy(out, p.sums + first, k * sizeof(uint32_t))
            pthread_mutex_unlock(&self.mutex)
            if here:
                out += k
                block += k
                n -= k
                continue
            if not wait:
                return CDP_WOULD_WAIT
            rc = self.load(number, fd, page, st)
            if rc != CDP_OK:
                return rc
        return CDP_OK

    cdef int load(self, uint32_t number, int fd, uint64_t page, cdp_status *st) noexcept nogil:
        cdef sums_page *p = &self.pages[(number * 64 + page) % PAGES]
        cdef uint32_t *sums = <uint32_t *>malloc(CDP_SUMS_PER_PAGE * sizeof(uint32_t))
        cdef uint32_t *old
        cdef char beside[4096]
        cdef int rc, source
        if sums == NULL:
            return cdp_fail_os(st, -ENOMEM, 0, b"memory for checksums of the log")
        if number:
            snprintf(beside, sizeof(beside), b"%s/%010u.sums", self.directory_c, number)
            rc = cdp_segment_sums(self.table, fd, beside, number, page, sums, &source, st)
            pthread_mutex_lock(&self.mutex)
        else:
            pthread_mutex_lock(&self.mutex)     # held while it is read: another table may come
            source = CDP_SUMS_TABLE
            rc = CDP_OK
            if self.base_fd < 0 or not cdp_sums_load(self.table, self.base_fd, &self.base, page, sums):
                rc = cdp_fail(st, CDP_CORRUPT, 0, (page + 1) * CDP_BLOCK,
                              b"base.sums: a page of the table of checksums is damaged")
        if rc != CDP_OK:
            pthread_mutex_unlock(&self.mutex)
            free(sums)
            return rc
        old = p.sums
        p.number = number
        p.page = <uint32_t>page
        p.sums = sums
        self.loaded += 1
        self.from_frames += source == CDP_SUMS_FRAMES
        pthread_mutex_unlock(&self.mutex)
        free(old)
        return CDP_OK

    cdef bint set_base(self, int fd) noexcept nogil:
        cdef uint8_t block[4096]
        cdef cdp_sums_header h
        cdef uint32_t i
        cdef int old
        cdef bint ok = fd >= 0 and self.table.pread(self.table.ctx, fd, block, CDP_BLOCK, 0) == CDP_BLOCK and \
            cdp_sums_header_get(block, &h) and h.segment == 0
        if fd >= 0 and not ok:
            self.table.close(self.table.ctx, fd)
        pthread_mutex_lock(&self.mutex)
        old = self.base_fd
        self.base_fd = fd if ok else -1
        if ok:
            self.base = h
        for i in range(PAGES):
            if self.pages[i].sums != NULL and self.pages[i].number == 0:
                free(self.pages[i].sums)
                self.pages[i].sums = NULL
        pthread_mutex_unlock(&self.mutex)
        if old >= 0:
            self.table.close(self.table.ctx, old)
        return ok
