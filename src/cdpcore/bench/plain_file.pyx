"""A plain file behind the target seam: no history, no index; what the engine is compared with in benchmarks.

Every request is one system call on the file, so the kernel's rules hold: concurrent writers may mix. Goes through the
OS table like everything else. Threading: any thread, no GIL.
"""
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EOPNOTSUPP
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from cdpcore.base.errors cimport check
from cdpcore.base.status cimport CDP_OK, CDP_UNAVAILABLE, cdp_fail, cdp_fail_os, cdp_status
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_FUA, CDP_TARGET_CAPSULE, cdp_extent, cdp_target
from cdpcore.system.os_table cimport CDP_OPEN_DIRECT, CDP_OPEN_RDWR, cdp_os, cdp_os_posix

import os as _os


cdef class PlainFile:
    """PlainFile(path, direct=False): an existing file as a disk of its size. direct: past the page cache, where the
    file system can (fileno() has the flags). Raises NotFound, Unavailable. Closed with the object and its last capsule.
    """

    cdef const cdp_os *os
    cdef cdp_target table
    cdef int fd

    def __cinit__(self, path, bint direct=False):
        cdef cdp_status st
        cdef bytes raw
        cdef int64_t size
        cdef int fd
        self.fd = -1        # before anything can raise: __dealloc__ looks at it
        self.os = cdp_os_posix()
        raw = _os.fsencode(path)
        fd = self.os.open(self.os.ctx, raw, CDP_OPEN_RDWR | (CDP_OPEN_DIRECT if direct else 0))
        if fd < 0:
            check(cdp_fail_os(&st, fd, 0, b"opening a plain file"), &st, _os.fsdecode(path))
        self.fd = fd
        size = self.os.size(self.os.ctx, fd)
        if size < 0:
            check(cdp_fail_os(&st, size, 0, b"size of a plain file"), &st, _os.fsdecode(path))
        self.table = cdp_target(ctx=<void *>self, size_bytes=<uint64_t>size, read_only=0, tells_seq=0, pread=_pread,
                                pwrite=_pwrite, zero=_zero, flush=_flush, map=_map,
                                pwrite_seq=NULL, zero_seq=NULL, written_seq=NULL, write_out=NULL, expect=NULL)

    def __dealloc__(self):
        if self.fd >= 0:
            self.os.close(self.os.ctx, self.fd)

    @property
    def size_bytes(self):
        """Size in bytes, as of opening."""
        return self.table.size_bytes

    def fileno(self):
        """The descriptor; valid as long as the object."""
        return self.fd

    @property
    def capsule(self):
        """A new PyCapsule holding the target; it keeps this file open for as long as it lives."""
        capsule = PyCapsule_New(&self.table, CDP_TARGET_CAPSULE, _release)
        PyCapsule_SetContext(capsule, <void *>self)
        Py_INCREF(self)
        return capsule


cdef void _release(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


cdef int _pread(void *ctx, void *buf, uint64_t offset, uint64_t length, cdp_status *st) noexcept nogil:
    cdef const cdp_os *os = (<PlainFile>ctx).os
    cdef int64_t got = os.pread(os.ctx, (<PlainFile>ctx).fd, buf, length, offset)
    if got < 0:
        return cdp_fail_os(st, got, offset, b"reading a plain file")
    memset(<char *>buf + got, 0, length - <uint64_t>got)
    return CDP_OK


cdef int _pwrite(void *ctx, const void *buf, uint64_t offset, uint64_t length, uint32_t flags,
                 cdp_status *st) noexcept nogil:
    cdef const cdp_os *os = (<PlainFile>ctx).os
    cdef int64_t rc = os.pwrite(os.ctx, (<PlainFile>ctx).fd, buf, length, offset)
    if rc >= 0 and flags & CDP_FUA:
        rc = os.datasync(os.ctx, (<PlainFile>ctx).fd)
    return CDP_OK if rc >= 0 else cdp_fail_os(st, rc, offset, b"writing a plain file")


cdef int _zero(void *ctx, uint64_t offset, uint64_t length, uint32_t flags, cdp_status *st) noexcept nogil:
    return cdp_fail(st, CDP_UNAVAILABLE, EOPNOTSUPP, offset, b"zeroing a plain file")


cdef int _flush(void *ctx, cdp_status *st) noexcept nogil:
    cdef const cdp_os *os = (<PlainFile>ctx).os
    cdef int64_t rc = os.datasync(os.ctx, (<PlainFile>ctx).fd)
    return CDP_OK if rc >= 0 else cdp_fail_os(st, rc, 0, b"syncing a plain file")


cdef int _map(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap, uint32_t *n,
              cdp_status *st) noexcept nogil:
    out[0].offset = offset
    out[0].length = length
    out[0].kind = CDP_EXTENT_DATA
    out[0].reserved = 0
    n[0] = 1
    return CDP_OK
