"""Read handles of segment files: at most `max_open` are kept; reading history older than that reopens.

Direct-mapped, because the neighbours of a segment are what is read together with it: finding one is an index and a
compare. A collision with a pinned slot is served by a handle for one call. Handles are opened buffered: what is read
again comes from the page cache, and a page is only read after the frame that fills it was written, as a whole.

A reader pins the slot with one compare-and-swap of a word that says whose file it is, so it cannot pin another one's.
"""
cimport cython
from libc.stdlib cimport calloc, free
from libc.stdio cimport snprintf
from cdpcore.base.clock cimport cdp_nap_us
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.thread cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.system.os_table cimport CDP_OPEN_RANDOM, CDP_OPEN_RDONLY

cdef extern from *:
    """
    #include <stdint.h>
    /* Acquire, and release where the state is put: who has seen a segment's number sees its handle. */
    static inline uint64_t fds_get(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fds_put(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline int fds_swap(uint64_t *p, uint64_t *was, uint64_t v)
    {
        return __atomic_compare_exchange_n(p, was, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    /* Release, and acquire in the swap that retires: the handle is closed after its last reader has read. */
    static inline void fds_unpin(uint64_t *p) { __atomic_fetch_sub(p, 1, __ATOMIC_RELEASE); }
    """
    uint64_t fds_get(const uint64_t *p) noexcept nogil
    void fds_put(uint64_t *p, uint64_t v) noexcept nogil
    bint fds_swap(uint64_t *p, uint64_t *was, uint64_t v) noexcept nogil
    void fds_unpin(uint64_t *p) noexcept nogil

cdef enum:
    BREAK_PINS = 1          # see SegmentFds.break_rule
    BREAK_SLOW = 2
    SLOW_US = 300

RULES = {"pins": BREAK_PINS, "slow": BREAK_SLOW}


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

    def break_rule(self, rule: str):
        """For tests of the tests: from now on a file is closed under its readers ("pins"). "slow" breaks nothing:
        readers take longer."""
        self.broken |= <uint32_t>RULES[rule]

    cdef bint pin(self, open_segment_file *s, uint32_t number, int *fd) noexcept nogil:
        cdef uint64_t was = fds_get(&s.state)
        while was >> 32 == number:
            if fds_swap(&s.state, &was, was + 1):
                fd[0] = s.fd
                if self.broken & BREAK_SLOW:
                    cdp_nap_us(SLOW_US)
                return True
        return False

    cdef bint retire(self, open_segment_file *s) noexcept nogil:
        cdef uint64_t was = fds_get(&s.state)
        while was:
            if <uint32_t>was and not self.broken & BREAK_PINS:
                return False
            if fds_swap(&s.state, &was, 0):
                self.table.close(self.table.ctx, s.fd)
                break
        return True

    cdef int acquire(self, uint32_t number, int *fd, bint *cached, cdp_status *st) noexcept nogil:
        cdef open_segment_file *s = &self.slots[number % self.n_slots]
        cdef char path[4096]
        cdef int rc
        cached[0] = self.pin(s, number, fd)
        if cached[0]:
            return CDP_OK
        snprintf(path, sizeof(path), b"%s/%010u.log", self.directory_c, number)
        pthread_mutex_lock(&self.mutex)
        cached[0] = self.pin(s, number, fd)     # another thread may have opened it
        if cached[0]:
            pthread_mutex_unlock(&self.mutex)
            return CDP_OK
        rc = self.table.open(self.table.ctx, path, CDP_OPEN_RDONLY | CDP_OPEN_RANDOM)
        if rc < 0:
            pthread_mutex_unlock(&self.mutex)
            return cdp_fail_os(st, rc, number, b"opening a log segment to read")
        fd[0] = rc
        cached[0] = self.retire(s)
        if cached[0]:
            s.fd = rc
            fds_put(&s.state, <uint64_t>number << 32 | 1)
        pthread_mutex_unlock(&self.mutex)
        return CDP_OK

    cdef void release(self, uint32_t number, int fd, bint cached) noexcept nogil:
        if not cached:
            self.table.close(self.table.ctx, fd)
        elif not self.broken & BREAK_PINS:
            fds_unpin(&self.slots[number % self.n_slots].state)

    def forget(self, uint32_t number):
        """Close the handle of a segment that is being deleted. Its last reader frees the space."""
        cdef open_segment_file *s = &self.slots[number % self.n_slots]
        with nogil:
            pthread_mutex_lock(&self.mutex)
            if fds_get(&s.state) >> 32 == number:
                self.retire(s)
            pthread_mutex_unlock(&self.mutex)

    def close(self):
        """Close all handles; no reader may be inside."""
        cdef uint32_t i
        for i in range(self.n_slots):
            if self.slots[i].state:
                self.table.close(self.table.ctx, self.slots[i].fd)
                self.slots[i].state = 0
