# cython: autotestdict=False
"""A RAM disk behind the target seam: what front ends are tested on, and their baseline in benchmarks.

Not a volume: it keeps no history and everything is lost when it goes.

Invariants
 1. state[b] says what block b (4 KiB) is; where it is not data, its bytes are zero.
 2. Requests are atomic: a writer holds the lock alone, readers share it.
Threading: every function of the table is callable from any thread without the GIL.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EROFS
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from cdpcore.base.status cimport CDP_OK, CDP_UNAVAILABLE, cdp_fail, cdp_status
from cdpcore.base.target cimport (CDP_EXTENT_DATA, CDP_EXTENT_HOLE, CDP_EXTENT_ZERO, CDP_HOLE, CDP_TARGET_CAPSULE,
                                  cdp_extent, cdp_target)
from cdpcore.base.thread cimport (pthread_rwlock_destroy, pthread_rwlock_init, pthread_rwlock_rdlock, pthread_rwlock_t,
                                  pthread_rwlock_unlock, pthread_rwlock_wrlock)

from cdpcore.base.errors import InvalidRequest as _InvalidRequest

cdef extern from *:
    """
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0 /* Linux's; elsewhere memory is not reserved ahead */
    #endif
    """

cdef enum:
    BLOCK_BYTES = 4096
    IS_HOLE = 0     # fresh pages are zero, so a new disk is one hole
    IS_ZERO = 1
    IS_DATA = 2

cdef struct ram_disk:
    pthread_rwlock_t lock
    uint8_t *data          # constant after open
    uint8_t *state         # guarded by lock, as the bytes are
    uint64_t blocks


@cython.final
cdef class RamDisk:
    """RamDisk(size_bytes, read_only=False): zeros, size_bytes long (1 to 2^40); memory is committed as it is written.

    Raises InvalidRequest for a bad size, MemoryError.
    """

    cdef ram_disk disk
    cdef cdp_target table

    def __cinit__(self, uint64_t size_bytes, bint read_only=False):
        if not 0 < size_bytes <= (<uint64_t>1 << 40):
            raise _InvalidRequest(f"a RAM disk of {size_bytes} bytes", "give 1 to 2^40")
        pthread_rwlock_init(&self.disk.lock, NULL)
        self.disk.blocks = (size_bytes + BLOCK_BYTES - 1) // BLOCK_BYTES
        self.disk.data = <uint8_t *>_pages(self.disk.blocks * BLOCK_BYTES)
        self.disk.state = <uint8_t *>_pages(self.disk.blocks)
        self.table = cdp_target(ctx=&self.disk, size_bytes=size_bytes, read_only=read_only, tells_seq=0, pread=_pread,
                                pwrite=_pwrite, zero=_zero, flush=_flush, map=_map,
                                pwrite_seq=NULL, zero_seq=NULL, written_seq=NULL, write_out=NULL, expect=NULL)
        if read_only:
            self.table.pwrite = _no_pwrite
            self.table.zero = _no_zero

    def __dealloc__(self):
        if self.disk.data != NULL:
            munmap(self.disk.data, self.disk.blocks * BLOCK_BYTES)
        if self.disk.state != NULL:
            munmap(self.disk.state, self.disk.blocks)
        if self.disk.blocks:
            pthread_rwlock_destroy(&self.disk.lock)

    def __reduce__(self):
        raise TypeError("a RAM disk cannot be pickled")

    @property
    def size_bytes(self):
        """Size in bytes."""
        return self.table.size_bytes

    @property
    def read_only(self):
        """Whether writes are refused."""
        return bool(self.table.read_only)

    @property
    def capsule(self):
        """A new PyCapsule holding the target; it keeps this disk alive for as long as it lives."""
        capsule = PyCapsule_New(&self.table, CDP_TARGET_CAPSULE, _release)
        PyCapsule_SetContext(capsule, <void *>self)
        Py_INCREF(self)
        return capsule


cdef void _release(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


cdef void *_pages(uint64_t n) except NULL:
    cdef void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        raise MemoryError(f"{n} bytes for a RAM disk")
    return p


cdef int _pread(void *ctx, void *buf, uint64_t offset, uint64_t length, cdp_status *st) noexcept nogil:
    cdef ram_disk *d = <ram_disk *>ctx
    pthread_rwlock_rdlock(&d.lock)
    memcpy(buf, d.data + offset, length)
    pthread_rwlock_unlock(&d.lock)
    return CDP_OK


cdef int _pwrite(void *ctx, const void *buf, uint64_t offset, uint64_t length, uint32_t flags,
                 cdp_status *st) noexcept nogil:
    cdef ram_disk *d = <ram_disk *>ctx
    if not length:
        return CDP_OK
    cdef uint64_t first = offset // BLOCK_BYTES, last = (offset + length - 1) // BLOCK_BYTES
    pthread_rwlock_wrlock(&d.lock)
    memcpy(d.data + offset, buf, length)
    memset(d.state + first, IS_DATA, last - first + 1)
    pthread_rwlock_unlock(&d.lock)
    return CDP_OK


cdef int _zero(void *ctx, uint64_t offset, uint64_t length, uint32_t flags, cdp_status *st) noexcept nogil:
    cdef ram_disk *d = <ram_disk *>ctx
    cdef uint64_t end = offset + length, pos = offset, stop, block
    cdef uint8_t whole = IS_HOLE if flags & CDP_HOLE else IS_ZERO
    pthread_rwlock_wrlock(&d.lock)
    while pos < end:
        block = pos // BLOCK_BYTES
        stop = min(end, (block + 1) * BLOCK_BYTES)
        if d.state[block] == IS_DATA:
            memset(d.data + pos, 0, stop - pos)
        if stop - pos == BLOCK_BYTES:
            d.state[block] = whole
        elif d.state[block] == IS_HOLE and whole == IS_ZERO:
            d.state[block] = IS_ZERO
        pos = stop
    pthread_rwlock_unlock(&d.lock)
    return CDP_OK


cdef int _no_pwrite(void *ctx, const void *buf, uint64_t offset, uint64_t length, uint32_t flags,
                    cdp_status *st) noexcept nogil:
    return cdp_fail(st, CDP_UNAVAILABLE, EROFS, offset, "writing to a read-only RAM disk")


cdef int _no_zero(void *ctx, uint64_t offset, uint64_t length, uint32_t flags, cdp_status *st) noexcept nogil:
    return cdp_fail(st, CDP_UNAVAILABLE, EROFS, offset, "zeroing a read-only RAM disk")


cdef int _flush(void *ctx, cdp_status *st) noexcept nogil:
    return CDP_OK


cdef int _map(void *ctx, uint64_t offset, uint64_t length, cdp_extent *out, uint32_t cap, uint32_t *n,
              cdp_status *st) noexcept nogil:
    cdef ram_disk *d = <ram_disk *>ctx
    cdef uint64_t end = offset + length, pos = offset, stop
    cdef uint32_t count = 0
    cdef uint8_t state
    pthread_rwlock_rdlock(&d.lock)
    while pos < end and count < cap:
        state = d.state[pos // BLOCK_BYTES]
        stop = (pos // BLOCK_BYTES + 1) * BLOCK_BYTES
        while stop < end and d.state[stop // BLOCK_BYTES] == state:
            stop += BLOCK_BYTES
        stop = min(stop, end)
        out[count].offset = pos
        out[count].length = stop - pos
        out[count].kind = (CDP_EXTENT_DATA if state == IS_DATA else
                           CDP_EXTENT_ZERO if state == IS_ZERO else CDP_EXTENT_HOLE)
        out[count].reserved = 0
        count += 1
        pos = stop
    pthread_rwlock_unlock(&d.lock)
    n[0] = count
    return CDP_OK
