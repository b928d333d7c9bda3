"""A volume, or a time image of it, as a disk that a front end can be given without knowing the engine."""
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EROFS
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.status cimport CDP_OK, CDP_UNAVAILABLE, cdp_fail, cdp_status
from cdpcore.base.target cimport cdp_extent
from cdpcore.index.index cimport cdp_view


cdef inline int read(Target t, void *buf, uint64_t off, uint64_t n, bint wait, cdp_status *st) noexcept nogil:
    cdef const cdp_view *v = NULL
    if t.view is not None:
        v = &t.view.v
    return t.core.read(v, <uint8_t *>buf, off, n, wait, st)

cdef int target_pread(void *ctx, void *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
    return read(<Target>ctx, buf, off, n, True, st)

cdef int target_pread_now(void *ctx, void *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
    return read(<Target>ctx, buf, off, n, False, st)

cdef int target_pwrite_seq(void *ctx, const void *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                           cdp_status *st) noexcept nogil:
    if (<Target>ctx).t.read_only:
        return cdp_fail(st, CDP_UNAVAILABLE, EROFS, off, b"a time image is read-only")
    return (<Target>ctx).core.write(<const uint8_t *>buf, off, n, flags, seq, st)

cdef int target_zero_seq(void *ctx, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                         cdp_status *st) noexcept nogil:
    if (<Target>ctx).t.read_only:
        return cdp_fail(st, CDP_UNAVAILABLE, EROFS, off, b"a time image is read-only")
    return (<Target>ctx).core.zero(off, n, flags, seq, st)

cdef int target_pwrite(void *ctx, const void *buf, uint64_t off, uint64_t n, uint32_t flags,
                       cdp_status *st) noexcept nogil:
    cdef uint64_t seq
    return target_pwrite_seq(ctx, buf, off, n, flags, &seq, st)

cdef int target_zero(void *ctx, uint64_t off, uint64_t n, uint32_t flags, cdp_status *st) noexcept nogil:
    cdef uint64_t seq
    return target_zero_seq(ctx, off, n, flags, &seq, st)

cdef uint64_t target_written_seq(void *ctx) noexcept nogil:
    return (<Target>ctx).core.written_seq()

cdef void target_expect(void *ctx, uint64_t off, uint64_t n) noexcept nogil:
    (<Target>ctx).core.expect(off, n)

cdef int target_write_out(void *ctx, uint64_t beyond, cdp_status *st) noexcept nogil:
    return (<Target>ctx).core.write_out(beyond, st)

cdef int target_flush(void *ctx, cdp_status *st) noexcept nogil:
    if (<Target>ctx).t.read_only:
        return CDP_OK
    return (<Target>ctx).core.flush(st)

cdef int target_map(void *ctx, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                    cdp_status *st) noexcept nogil:
    cdef const cdp_view *v = NULL
    if (<Target>ctx).view is not None:
        v = &(<Target>ctx).view.v
    return (<Target>ctx).core.map(v, off, n, out, cap, got, st)


cdef class Target:
    """A disk for a front end: `core`'s current content, or with `view` a read-only time image. `capsule()` hands out
    the cdp_target; every capsule keeps this object, and `pin`, alive."""

    def __cinit__(self, VolumeCore core not None, View view=None, pin=None):
        self.core = core
        self.view = view
        self.pin = pin
        self.t.ctx = <void *>self
        self.t.size_bytes = core.size_bytes
        self.t.read_only = view is not None
        self.t.tells_seq = 1
        self.t.pread = target_pread
        self.t.pread_now = target_pread_now
        self.t.pwrite = target_pwrite
        self.t.zero = target_zero
        self.t.flush = target_flush
        self.t.map = target_map
        self.t.pwrite_seq = target_pwrite_seq
        self.t.zero_seq = target_zero_seq
        self.t.written_seq = target_written_seq
        self.t.write_out = target_write_out
        self.t.stages = core.log.stages.s
        if core.content.reads_first and view is None:
            self.t.expect = target_expect

    def capsule(self):
        """PyCapsule "cdpcore.target" with a cdp_target*."""
        capsule = PyCapsule_New(&self.t, b"cdpcore.target", release_capsule)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void *>self)
        return capsule


cdef void release_capsule(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))
