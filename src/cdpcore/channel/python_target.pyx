"""A disk that is a Python function, behind the target seam: for routers and packets, where every request touches Python
anyway.

Threading: the C functions are called on any thread without the GIL, and take it for the call.
"""
cimport cython
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.pycapsule cimport PyCapsule_New, PyCapsule_GetContext, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EIO
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from cdpcore.base.status cimport CDP_OK, CDP_UNAVAILABLE, cdp_fail, cdp_status
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_EXTENT_UNKNOWN, CDP_FUA, CDP_HOLE, cdp_extent, cdp_target
from cdpcore.channel.mdpacket cimport CDP_MD_FLUSH, CDP_MD_READ, CDP_MD_TRIM, CDP_MD_WRITE, CDP_MD_ZERO

from cdpcore.base.errors import CdpError, code_of


@cython.final
cdef class PyTarget:
    """PyTarget(run, size_bytes, read_only=False, extents=None)

    run(op, offset, length, buffer, fua)  blocks until an operation (cdpcore.channel.mdpacket.Op, READ to FLUSH) is
                                          done; buffer is a memoryview for
                                          READ and WRITE, which ends with the call; else None. Raises CdpError.
    extents(offset, length, limit)        (offset, length, kind) of what is there, kind: 0 data, 1 zeros, 2 hole; in
                                          order, adjacent, inside the range from its offset on, one or more and at most
                                          `limit`. Raises CdpError. Without it all counts as data.
    """

    cdef object run, extents
    cdef cdp_target t

    def __cinit__(self, run, uint64_t size_bytes, bint read_only=False, extents=None):
        self.run, self.extents = run, extents
        memset(&self.t, 0, sizeof(self.t))
        self.t.ctx = <void *>self
        self.t.size_bytes = size_bytes
        self.t.read_only = read_only
        self.t.pread = py_pread
        self.t.pwrite = py_pwrite
        self.t.zero = py_zero
        self.t.flush = py_flush
        self.t.map = py_map if extents is None else py_extents

    def capsule(self):
        """PyCapsule "cdpcore.target"; it keeps this object alive."""
        capsule = PyCapsule_New(&self.t, b"cdpcore.target", release)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void *>self)
        return capsule


cdef void release(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


cdef int call(void *ctx, int op, void *buf, uint64_t offset, uint64_t length, uint32_t flags,
              cdp_status *st) noexcept with gil:
    view = None
    try:
        if buf != NULL:
            view = PyMemoryView_FromMemory(<char *>buf, length, PyBUF_WRITE if op == CDP_MD_READ else PyBUF_READ)
        (<PyTarget>ctx).run(op, offset, length, view, bool(flags & CDP_FUA))
        return CDP_OK
    except CdpError as error:
        return cdp_fail(st, code_of(error), error.nbd_errno, offset, b"a disk in Python")
    except BaseException:
        return cdp_fail(st, CDP_UNAVAILABLE, EIO, offset, b"a disk in Python failed unexpectedly")
    finally:
        if view is not None:
            view.release()

cdef int py_pread(void *ctx, void *buf, uint64_t offset, uint64_t length, cdp_status *st) noexcept nogil:
    return call(ctx, CDP_MD_READ, buf, offset, length, 0, st) if length else CDP_OK

cdef int py_pwrite(void *ctx, const void *buf, uint64_t offset, uint64_t length, uint32_t flags,
                   cdp_status *st) noexcept nogil:
    return call(ctx, CDP_MD_WRITE, <void *>buf, offset, length, flags, st) if length else CDP_OK

cdef int py_zero(void *ctx, uint64_t offset, uint64_t length, uint32_t flags, cdp_status *st) noexcept nogil:
    cdef int op = CDP_MD_TRIM if flags & CDP_HOLE else CDP_MD_ZERO
    return call(ctx, op, NULL, offset, length, flags, st) if length else CDP_OK

cdef int py_flush(void *ctx, cdp_status *st) noexcept nogil:
    return call(ctx, CDP_MD_FLUSH, NULL, 0, 0, 0, st)

cdef int py_map(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap, uint32_t *n,
                cdp_status *st) noexcept nogil:
    """Not known: all of it counts as data."""
    out[0].offset = offset
    out[0].length = length
    out[0].kind = CDP_EXTENT_DATA
    n[0] = 1
    return CDP_OK

cdef int py_extents(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap, uint32_t *n,
                    cdp_status *st) noexcept with gil:
    cdef uint64_t at = offset, begin, size, end = offset + length
    cdef uint32_t count = 0, kind
    try:
        for begin, size, kind in (<PyTarget>ctx).extents(offset, length, cap):
            if count == cap or begin != at or size == 0 or size > end - at or kind > CDP_EXTENT_UNKNOWN:
                raise ValueError("extents that are not as promised")
            out[count].offset, out[count].length, out[count].kind = begin, size, kind
            count += 1
            at += size
        if count == 0:
            raise ValueError("no extent")
        n[0] = count
        return CDP_OK
    except CdpError as error:
        return cdp_fail(st, code_of(error), error.nbd_errno, offset, b"a disk in Python")
    except BaseException:
        return cdp_fail(st, CDP_UNAVAILABLE, EIO, offset, b"a disk in Python failed unexpectedly")
