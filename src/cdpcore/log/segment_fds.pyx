"""Read handles of segment files: at most `max_open` are kept; reading history older than that reopens.

Direct-mapped, because the neighbours of a segment are what is read together with it: finding one is an index and a
compare. A collision with a pinned slot is served by a handle for one call. Handles are opened buffered: what is read
again comes from the page cache, and a page is only read after the frame that fills it was written, as a whole.
"""
cimport cython
from libc.stdlib cimport calloc, free
from libc.stdio cimport snprintf
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.thread cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.system.os_table cimport CDP_OPEN_RANDOM, CDP_OPEN_RDONLY


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class SegmentFds:
    """`directory`: VOLUME/log. All methods: any thread, no GIL."""

    def __cinit__(self, Os os not None, directory: str, uint32_t max_open):
        self.os = os
        self.table = os.table
        self.directory = directory.encode()
        self.directory_c = self.directory
        self.n_slots = max(1, max_open)
        pthread_mutex_init(&self.mutex, NULL)
        self.slots = <open_segment_file *>calloc(self.n_slots, sizeof(open_segment_file))
        if self.slots == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.slots != NULL:
            self.close()
            free(self.slots)
        pthread_mutex_destroy(&self.mutex)

    cdef int acquire(self, uint32_t number, int *fd, bint *cached, cdp_status *st) noexcept nogil:
        cdef open_segment_file *s = &self.slots[number % self.n_slots]
        cdef char path[4096]
        cdef int rc
        pthread_mutex_lock(&self.mutex)
        if s.number == number:
            s.pins += 1
            fd[0] = s.fd
            cached[0] = True
            pthread_mutex_unlock(&self.mutex)
            return CDP_OK
        snprintf(path, sizeof(path), b"%s/%010u.log", self.directory_c, number)
        rc = self.table.open(self.table.ctx, path, CDP_OPEN_RDONLY | CDP_OPEN_RANDOM)
        if rc < 0:
            pthread_mutex_unlock(&self.mutex)
            return cdp_fail_os(st, rc, number, b"opening a log segment to read")
        fd[0] = rc
        cached[0] = s.number == 0 or s.pins == 0
        if cached[0]:
            if s.number:
                self.table.close(self.table.ctx, s.fd)
            s.number = number
            s.fd = rc
            s.pins = 1
        pthread_mutex_unlock(&self.mutex)
        return CDP_OK

    cdef void release(self, uint32_t number, int fd, bint cached) noexcept nogil:
        if not cached:
            self.table.close(self.table.ctx, fd)
            return
        pthread_mutex_lock(&self.mutex)
        self.slots[number % self.n_slots].pins -= 1
        pthread_mutex_unlock(&self.mutex)

    def forget(self, uint32_t number):
        """Close the handle of a segment that is being deleted. Its last reader frees the space."""
        cdef open_segment_file *s = &self.slots[number % self.n_slots]
        with nogil:
            pthread_mutex_lock(&self.mutex)
            if s.number == number and s.pins == 0:
                self.table.close(self.table.ctx, s.fd)
                s.number = 0
            pthread_mutex_unlock(&self.mutex)

    def close(self):
        """Close all handles; no reader may be inside."""
        cdef uint32_t i
        for i in range(self.n_slots):
            if self.slots[i].number:
                self.table.close(self.table.ctx, self.slots[i].fd)
                self.slots[i].number = 0
