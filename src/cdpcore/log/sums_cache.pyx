"""The checksums of the blocks of sealed segments: a bounded cache of the pages of their tables.

A page is 4 KiB and covers 4 MiB of a log file; the 1024 of them cover 4 GiB of log that is being read. Finding one
takes no lock (log/sums_slots.h). One that is not here costs three reads of 4 KiB.

Threading: any thread, no GIL.
"""
cimport cython
from libc.errno cimport ENOMEM
from libc.stdio cimport snprintf
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from cdpcore.base.format cimport CDP_BLOCK, CDP_SUMS_PER_PAGE
from cdpcore.base.status cimport CDP_CORRUPT, CDP_OK, CDP_WOULD_WAIT, cdp_fail, cdp_fail_os
from cdpcore.base.thread cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.log.block_sums cimport cdp_sums_header_get, cdp_sums_load
from cdpcore.log.sums_pages cimport (cdp_sums_slots_drop, cdp_sums_slots_fetch, cdp_sums_slots_find,
                                     cdp_sums_slots_put)


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
        self.pages = SumsPages()

    def __dealloc__(self):
        if self.base_fd >= 0:
            self.table.close(self.table.ctx, self.base_fd)
        pthread_mutex_destroy(&self.mutex)

    cdef int find(self, uint32_t number, int fd, uint64_t block, uint32_t n, uint32_t *out, bint wait,
                  cdp_status *st) noexcept nogil:
        cdef uint64_t page, first
        cdef uint32_t k
        cdef int rc
        while n:
            page = block // CDP_SUMS_PER_PAGE
            first = block % CDP_SUMS_PER_PAGE
            k = <uint32_t>min(<uint64_t>n, CDP_SUMS_PER_PAGE - first)
            if not cdp_sums_slots_find(&self.pages.t, number, page, <uint32_t>first, k, out):
                if not wait:
                    return CDP_WOULD_WAIT
                rc = self.load(number, fd, page, <uint32_t>first, k, out, st)
                if rc != CDP_OK:
                    return rc
            out += k
            block += k
            n -= k
        return CDP_OK

    cdef void fetch(self, uint32_t number, uint64_t block) noexcept nogil:
        cdp_sums_slots_fetch(&self.pages.t, number, block // CDP_SUMS_PER_PAGE, <uint32_t>(block % CDP_SUMS_PER_PAGE))

    cdef int load(self, uint32_t number, int fd, uint64_t page, uint32_t first, uint32_t n, uint32_t *out,
                  cdp_status *st) noexcept nogil:
        cdef uint32_t sums[1023]
        cdef char beside[4096]
        cdef int rc, source
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
        if rc == CDP_OK and cdp_sums_slots_put(&self.pages.t, number, page, sums) < 0:
            rc = cdp_fail_os(st, -ENOMEM, 0, b"memory for checksums of the log")
        if rc == CDP_OK:
            self.loaded += 1
            self.from_frames += source == CDP_SUMS_FRAMES
            memcpy(out, &sums[first], n * sizeof(uint32_t))
        pthread_mutex_unlock(&self.mutex)
        return rc

    cdef bint set_base(self, int fd) noexcept nogil:
        cdef uint8_t block[4096]
        cdef cdp_sums_header h
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
        cdp_sums_slots_drop(&self.pages.t, 0)
        pthread_mutex_unlock(&self.mutex)
        if old >= 0:
            self.table.close(self.table.ctx, old)
        return ok
