"""The data of a record: from the frame in memory that still has it, else from its segment file.

Threading: any thread, no GIL, no lock held. Whoever reads holds a snapshot of the index (see index/versions.pyx), so
that the data is not freed meanwhile.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.format cimport CDP_BLOCK, CDP_SECTOR
from cdpcore.base.stages cimport (CDP_FROM_CACHE, CDP_FROM_MEMORY, CDP_STAGE_FILE_READ, cdp_source_add, cdp_source_of,
                                  cdp_stage_add)
from cdpcore.base.status cimport CDP_CORRUPT, CDP_OK
from cdpcore.log.block_sums cimport cdp_read_checked, cdp_sums_of


cdef struct log_file:
    void *reader
    uint32_t number
    int fd


cdef int sums_of(void *ctx, uint64_t block, uint32_t n, uint32_t *out, bint wait, cdp_status *st) noexcept nogil:
    cdef log_file *f = <log_file *>ctx
    if (<LogReader>f.reader).log.files.sums_of(f.number, block, n, out):
        return CDP_OK
    return (<LogReader>f.reader).sums.find(f.number, f.fd, block, n, out, wait, st)


cdef class LogReader:
    """Args: log: whose records are read; files: the read handles of its segment files; damage: learns what does not
    match its checksum."""

    def __cinit__(self, Log log not None, SegmentFds files not None, Damage damage not None):
        self.log = log
        self.files = files
        self.sums = SegmentSums(log.os, files.directory)
        self.damage = damage
        self.table = log.table

    def break_rule(self, rule: str):
        """For tests of the tests: from now on what comes from a file is not checked ("check")."""
        self.unchecked = rule == "check"

    cdef int read(self, uint8_t *buf, uint64_t loc, uint64_t skip, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil:
        cdef uint64_t off, ns
        cdef uint32_t token
        cdef cdp_sums_of check = NULL
        cdef log_file f
        cdef int rc
        cdef bint cached
        cdef uint8_t *resident = self.log.ring.pin(loc, &token)
        if resident != NULL:
            memcpy(buf, resident + skip, n)
            self.log.ring.unpin(token)
            cdp_source_add(self.log.stages.s, CDP_FROM_MEMORY, n)
            return CDP_OK
        f.reader = <void *>self
        f.number = <uint32_t>(loc >> 32)
        rc = self.files.acquire(f.number, &f.fd, &cached, st)
        if rc != CDP_OK:
            return rc
        off = <uint64_t><uint32_t>loc * CDP_SECTOR + skip
        if not self.unchecked:
            check = sums_of
        ns = cdp_monotonic_ns() if wait else 0
        self.sums.fetch(f.number, off // CDP_BLOCK)     # while the data comes
        rc = cdp_read_checked(self.table, f.fd, buf, n, off, wait, check, &f,
                              b"reading a log segment", st)
        self.files.release(f.number, f.fd, cached)
        if wait:
            ns = cdp_monotonic_ns() - ns
            cdp_stage_add(self.log.stages.s, CDP_STAGE_FILE_READ, ns)
        if rc == CDP_OK:
            cdp_source_add(self.log.stages.s, cdp_source_of(ns, n) if wait else CDP_FROM_CACHE, n)
        return self.damage.note(f.number, st) if rc == CDP_CORRUPT else rc
