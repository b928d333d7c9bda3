"""The data of a record: from the frame in memory that still has it, else from its segment file.

Threading: any thread, no GIL, no lock held. Whoever reads holds a snapshot of the index (see index/versions.pyx), so
that the data is not freed meanwhile.
"""
from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy
from cdpcore.base.format cimport CDP_SECTOR
from cdpcore.base.status cimport CDP_CORRUPT, CDP_OK, CDP_WOULD_WAIT, cdp_fail, cdp_fail_os


cdef class LogReader:
    """Args: log: whose records are read; files: the read handles of its segment files."""

    def __cinit__(self, Log log not None, SegmentFds files not None):
        self.log = log
        self.files = files
        self.table = log.table

    cdef int read(self, uint8_t *buf, uint64_t loc, uint64_t skip, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil:
        cdef uint64_t token, off
        cdef int fd, rc
        cdef bint cached
        cdef int64_t got
        cdef uint8_t *resident = self.log.ring.pin(loc, &token)
        if resident != NULL:
            memcpy(buf, resident + skip, n)
            self.log.ring.unpin(token)
            return CDP_OK
        rc = self.files.acquire(<uint32_t>(loc >> 32), &fd, &cached, st)
        if rc != CDP_OK:
            return rc
        off = <uint64_t><uint32_t>loc * CDP_SECTOR + skip
        if wait:
            got = self.table.pread(self.table.ctx, fd, buf, n, off)
        else:
            got = self.table.pread_now(self.table.ctx, fd, buf, n, off)
        self.files.release(<uint32_t>(loc >> 32), fd, cached)
        if got == -EAGAIN and not wait:
            return CDP_WOULD_WAIT
        if got < 0:
            return cdp_fail_os(st, got, off, b"reading a log segment")
        if <uint64_t>got != n:
            rc = cdp_fail(st, CDP_CORRUPT, 0, off, b"a log segment ends before its data")
            st.expected = n
            st.actual = <uint64_t>got
            return rc
        return CDP_OK
