"""The disk that a before-image volume protects: one file or block device, open for the volume's life.

Only what is asked of it, without an opinion on when: reader.pyx reads it, settler.pyx writes it.

Threading: any thread, no GIL; close() when nobody is inside.
"""
cimport cython
from libc.errno cimport EAGAIN, EIO
from libc.stdint cimport int64_t
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.errors cimport check
from cdpcore.base.stages cimport (CDP_FROM_CACHE, CDP_STAGE_DISK_SYNC, CDP_STAGE_DISK_WRITE, CDP_STAGE_FILE_READ,
                                  cdp_source_add, cdp_source_of, cdp_stage_add)
from cdpcore.base.status cimport CDP_OK, CDP_UNAVAILABLE, CDP_WOULD_WAIT, cdp_fail, cdp_fail_os
from cdpcore.system.os_table cimport CDP_OPEN_RDONLY, CDP_OPEN_RDWR
from cdpcore.volume.extents cimport add_file, forget_data, free_place, init_place

cdef enum:
    ZEROS_BYTES = 65536

cdef uint8_t ZEROS[ZEROS_BYTES]


@cython.final
@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class Disk:
    """The raw disk at `path`; stages: where the time is counted; `read_only`: it is never written, and may be
    unwritable. Raises NotFound, Unavailable."""

    def __cinit__(self, Os os not None, path: str, Stages stages not None, bint read_only=False):
        cdef cdp_status st
        cdef int64_t size
        self.fd = -1
        init_place(&self.data)
        self.os = os
        self.stages = stages
        self.table = os.table
        self.path = path.encode()
        self.path_text = self.path
        self.fd = self.table.open(self.table.ctx, self.path_text, CDP_OPEN_RDONLY if read_only else CDP_OPEN_RDWR)
        if self.fd < 0:
            check(cdp_fail_os(&st, self.fd, 0, b"opening the disk"), &st, path)
        size = self.table.size(self.table.ctx, self.fd)
        if size < 0:
            check(cdp_fail_os(&st, size, 0, b"the size of the disk"), &st, path)
        self.size_bytes = size

    def __dealloc__(self):
        self.close()
        free_place(&self.data)

    cpdef close(self):
        """Idempotent."""
        if self.fd >= 0:
            self.table.close(self.table.ctx, self.fd)
            self.fd = -1

    cdef int read(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, cdp_status *st) noexcept nogil:
        cdef int64_t got
        cdef uint64_t ns
        cdef int rc
        if wait:
            ns = cdp_monotonic_ns()
            got = self.table.pread(self.table.ctx, self.fd, buf, n, off)
            ns = cdp_monotonic_ns() - ns
            cdp_stage_add(self.stages.s, CDP_STAGE_FILE_READ, ns)
            cdp_source_add(self.stages.s, cdp_source_of(ns, n), n)
        else:
            got = self.table.pread_now(self.table.ctx, self.fd, buf, n, off)
            if got == -EAGAIN:
                return CDP_WOULD_WAIT
            cdp_source_add(self.stages.s, CDP_FROM_CACHE, n)
        if got < 0:
            return cdp_fail_os(st, got, off, b"reading the disk")
        if <uint64_t>got != n:
            self.cut = True
            rc = cdp_fail(st, CDP_UNAVAILABLE, EIO, off, b"the disk ends before its data: it was cut while it was open")
            st.expected = n
            st.actual = <uint64_t>got
            return rc
        return CDP_OK

    cdef int write(self, const uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
        cdef uint64_t began = cdp_monotonic_ns()
        cdef int64_t rc = self.table.pwrite(self.table.ctx, self.fd, buf, n, off)
        cdp_stage_add(self.stages.s, CDP_STAGE_DISK_WRITE, cdp_monotonic_ns() - began)
        return cdp_fail_os(st, rc, off, b"writing the disk") if rc < 0 else CDP_OK

    cdef int zero(self, uint64_t off, uint64_t n, bint hole, cdp_status *st) noexcept nogil:
        cdef uint64_t step
        cdef int64_t rc
        if hole and self.table.punch(self.table.ctx, self.fd, off, n) >= 0:
            forget_data(&self.data)
            return CDP_OK
        while n:
            step = min(n, <uint64_t>ZEROS_BYTES)
            rc = self.table.pwrite(self.table.ctx, self.fd, ZEROS, step, off)
            if rc < 0:
                return cdp_fail_os(st, rc, off, b"writing zeros to the disk")
            off += step
            n -= step
        return CDP_OK

    cdef int sync(self, cdp_status *st) noexcept nogil:
        cdef uint64_t began = cdp_monotonic_ns()
        cdef int64_t rc = self.table.datasync(self.table.ctx, self.fd)
        cdp_stage_add(self.stages.s, CDP_STAGE_DISK_SYNC, cdp_monotonic_ns() - began)
        return cdp_fail_os(st, rc, 0, b"making the disk durable") if rc < 0 else CDP_OK

    cdef int still_there(self, cdp_status *st) noexcept nogil:
        cdef int64_t size
        if self.table.is_at(self.table.ctx, self.fd, self.path_text) == 0:
            return cdp_fail(st, CDP_UNAVAILABLE, EIO, 0, b"the disk was moved or deleted while it is open")
        size = self.table.size(self.table.ctx, self.fd)
        if 0 <= size and <uint64_t>size < self.size_bytes:
            self.cut = True
        return self.was_cut(st) if self.cut else CDP_OK

    cdef int was_cut(self, cdp_status *st) noexcept nogil:
        return cdp_fail(st, CDP_UNAVAILABLE, EIO, 0, b"the disk was cut short while it is open")

    cdef int map(self, uint64_t off, uint64_t end, extents *out, cdp_status *st) noexcept nogil:
        return add_file(out, self.table, self.fd, &self.data, off, end, st)

    cdef int next_data(self, uint64_t off, uint64_t *data, cdp_status *st) noexcept nogil:
        cdef uint64_t end
        cdef int rc = self.table.next_data(self.table.ctx, self.fd, off, data, &end)
        if rc < 0:
            return cdp_fail_os(st, rc, off, b"looking for data on the disk")
        if rc == 0:
            data[0] = <uint64_t>-1
        return CDP_OK

    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil:
        self.table.expect(self.table.ctx, self.fd, off, n)
