"""Ranges of a disk that are being changed: overlapping changes wait for each other, and go in the order in which they
came.

Invariants
 1. Each change gets a turn, then a place, both in the order of coming; a place is had from before the range is held
    until it is released. So a long range is overtaken by no shorter one that overlaps it, and there are RANGES_MAX
    places and no more.
 2. A range is held when nobody with an earlier turn has a place with a range that overlaps it.
 3. Nobody who holds a range waits for another one: the earliest turn always goes on, so nothing can lock up.

A plain array: a volume has as many changes under way as it has connections, and looking through the places in use, the
lowest, costs less than keeping them in order.

Threading: any thread, no GIL.
"""
from cdpcore.base.thread cimport (cdp_cond_init, pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_wait,
                                  pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock)
from cdpcore.base.errors import InvalidRequest


cdef class RangeLock:
    """Exclusive holds of ranges [start, end), in any unit; start < end."""

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)
        cdp_cond_init(&self.changed)

    def __dealloc__(self):
        pthread_cond_destroy(&self.changed)
        pthread_mutex_destroy(&self.mutex)

    cdef uint32_t acquire(self, uint64_t start, uint64_t end) noexcept nogil:
        cdef uint32_t place
        cdef uint64_t turn
        cdef bint free
        pthread_mutex_lock(&self.mutex)
        turn = self.turns
        self.turns += 1
        free = self.look(turn, start, end, &place)
        while turn != self.placed or place == RANGES_MAX:
            pthread_cond_wait(&self.changed, &self.mutex)
            free = self.look(turn, start, end, &place)
        self.places[place].turn = turn
        self.places[place].start = start
        self.places[place].end = end
        self.top = max(self.top, place + 1)
        self.placed += 1
        if self.placed != self.turns:       # the next one may have its place
            pthread_cond_broadcast(&self.changed)
        while not free:
            self.n_waiting += 1
            pthread_cond_wait(&self.changed, &self.mutex)
            self.n_waiting -= 1
            free = self.look(turn, start, end, NULL)
        pthread_mutex_unlock(&self.mutex)
        return place

    cdef bint look(self, uint64_t turn, uint64_t start, uint64_t end, uint32_t *place) noexcept nogil:
        """Whether no earlier turn overlaps; *place: one that nobody has, or RANGES_MAX. Mutex held."""
        cdef uint32_t i, unused = self.top
        cdef bint free = True
        for i in range(self.top):
            if self.places[i].end == 0:
                unused = min(unused, i)
            elif self.places[i].turn < turn and self.places[i].start < end and start < self.places[i].end:
                free = False
        if place != NULL:
            place[0] = unused
        return free

    cdef void release(self, uint32_t place) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.places[place].end = 0
        while self.top and self.places[self.top - 1].end == 0:
            self.top -= 1
        pthread_cond_broadcast(&self.changed)
        pthread_mutex_unlock(&self.mutex)

    # --- for Python: tests, and tools that change a disk beside its volume --------------------------------------------

    def hold(self, uint64_t start, uint64_t end) -> int:
        """Wait until [start, end) is held; returns what let_go() takes. Raises InvalidRequest for an empty range."""
        cdef uint32_t place
        if start >= end:
            raise InvalidRequest(f"a range of {start} to {end}", "give one that is not empty")
        with nogil:
            place = self.acquire(start, end)
        return place

    def let_go(self, uint32_t place):
        """End a hold, once."""
        if place >= RANGES_MAX or self.places[place].end == 0:
            raise InvalidRequest(f"range {place} is not held")
        self.release(place)

    def waiting(self) -> int:
        """How many have a place and wait for an earlier range."""
        cdef uint32_t n
        with nogil:
            pthread_mutex_lock(&self.mutex)
            n = self.n_waiting
            pthread_mutex_unlock(&self.mutex)
        return n
