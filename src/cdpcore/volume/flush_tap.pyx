"""A disk that passes everything on and remembers at which record of its volume each flush of a client was.

What a mirror's client flushes is how it says that all it has sent is whole; the transmission loop has no Python in
which to note that. The position is read after the flush was carried out and before it is answered, so it holds
everything that the client had been answered before it flushed, and nothing that it sent after it got the answer.

Invariants
 1. A flush is noted if something was changed since the one noted before it, and it succeeded.
 2. At most MAX_NOTES notes wait to be fetched; then the oldest is dropped, and counted.
Threading: requests come from any thread, without the GIL; take() and counters() from any.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New, PyCapsule_SetContext, PyCapsule_GetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.base.target cimport cdp_extent, cdp_target
from cdpcore.base.thread cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t,
                                  pthread_mutex_unlock)
from cdpcore.volume.core cimport VolumeCore


cdef enum:
    MAX_NOTES = 1024


cdef class Tap:
    """Tap(target, core): `target` is the PyCapsule "cdpcore.target" of the volume whose engine is `core`."""

    cdef object inner               # keeps the target alive
    cdef cdp_target *to
    cdef VolumeCore core
    cdef cdp_target t

    # guarded by mutex
    cdef pthread_mutex_t mutex
    cdef uint64_t changes, noted, changed_bytes, flushes, dropped
    cdef uint64_t seqs[MAX_NOTES]
    cdef uint32_t first, n

    def __cinit__(self, target, VolumeCore core not None):
        pthread_mutex_init(&self.mutex, NULL)
        self.to = <cdp_target *>PyCapsule_GetPointer(target, b"cdpcore.target")
        self.inner = target
        self.core = core
        memset(&self.t, 0, sizeof(self.t))
        self.t.ctx = <void *>self
        self.t.size_bytes = self.to.size_bytes
        self.t.read_only = self.to.read_only
        self.t.pread, self.t.pwrite, self.t.zero = tap_pread, tap_pwrite, tap_zero
        self.t.flush, self.t.map = tap_flush, tap_map

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    def capsule(self):
        """A new PyCapsule "cdpcore.target"; it keeps this object alive."""
        capsule = PyCapsule_New(&self.t, b"cdpcore.target", release)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void *>self)
        return capsule

    def take(self):
        """The seqs of the flushes noted since the last call, in order."""
        cdef list found = []
        pthread_mutex_lock(&self.mutex)
        for i in range(self.n):
            found.append(self.seqs[(self.first + i) % MAX_NOTES])
        self.first = (self.first + self.n) % MAX_NOTES
        self.n = 0
        pthread_mutex_unlock(&self.mutex)
        return found

    def counters(self):
        """Since it was made: changes (writes, zeroes, trims), changed_bytes, unflushed (changes behind the last flush
        noted), flushes, and dropped notes."""
        pthread_mutex_lock(&self.mutex)
        found = {"changes": self.changes, "changed_bytes": self.changed_bytes, "unflushed": self.changes - self.noted,
                 "flushes": self.flushes, "dropped": self.dropped}
        pthread_mutex_unlock(&self.mutex)
        return found

    cdef void changed(self, uint64_t n) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.changes += 1
        self.changed_bytes += n
        pthread_mutex_unlock(&self.mutex)

    cdef void flushed(self, uint64_t changes) noexcept nogil:
        """`changes`: how many there were when the flush began."""
        pthread_mutex_lock(&self.mutex)
        self.flushes += 1
        if changes > self.noted:
            self.noted = changes
            if self.n == MAX_NOTES:
                self.first = (self.first + 1) % MAX_NOTES
                self.n -= 1
                self.dropped += 1
            self.seqs[(self.first + self.n) % MAX_NOTES] = self.core.versions.visible_seq
            self.n += 1
        pthread_mutex_unlock(&self.mutex)


cdef void release(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))

cdef int tap_pread(void *ctx, void *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
    cdef cdp_target *to = (<Tap>ctx).to
    return to.pread(to.ctx, buf, off, n, st)

cdef int tap_pwrite(void *ctx, const void *buf, uint64_t off, uint64_t n, uint32_t flags,
                    cdp_status *st) noexcept nogil:
    cdef cdp_target *to = (<Tap>ctx).to
    cdef int rc = to.pwrite(to.ctx, buf, off, n, flags, st)
    if rc == CDP_OK:
        (<Tap>ctx).changed(n)
    return rc

cdef int tap_zero(void *ctx, uint64_t off, uint64_t n, uint32_t flags, cdp_status *st) noexcept nogil:
    cdef cdp_target *to = (<Tap>ctx).to
    cdef int rc = to.zero(to.ctx, off, n, flags, st)
    if rc == CDP_OK:
        (<Tap>ctx).changed(n)
    return rc

cdef int tap_flush(void *ctx, cdp_status *st) noexcept nogil:
    cdef cdp_target *to = (<Tap>ctx).to
    cdef uint64_t changes
    cdef int rc
    pthread_mutex_lock(&(<Tap>ctx).mutex)
    changes = (<Tap>ctx).changes
    pthread_mutex_unlock(&(<Tap>ctx).mutex)
    rc = to.flush(to.ctx, st)
    if rc == CDP_OK:
        (<Tap>ctx).flushed(changes)
    return rc

cdef int tap_map(void *ctx, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil:
    cdef cdp_target *to = (<Tap>ctx).to
    return to.map(to.ctx, off, n, out, cap, got, st)
