"""Pages of checksums in memory, found without a lock (log/sums_slots.h). The def methods are for tests."""
from libc.stdint cimport uint8_t
from cdpcore.base.errors import InvalidRequest
from cdpcore.base.format cimport CDP_SUMS_PER_PAGE

RULES = {"turn": CDP_BREAK_TURN, "slow": CDP_BREAK_SLOW}


cdef class SumsPages:
    """A page has 1023 checksums of 4 bytes. find() and drop() of any number; put() of 0 <= page < 2**32 - 1.

    Threading: find() from any thread; the others from one at a time. All release the GIL."""

    def __cinit__(self):
        if cdp_sums_slots_init(&self.t) < 0:
            raise MemoryError()

    def __dealloc__(self):
        cdp_sums_slots_free(&self.t)

    def break_rule(self, rule: str):
        """For tests of the tests: from now on the page in a slot is exchanged without its readers noticing ("turn").
        "slow" breaks nothing: an exchange takes 0.2 ms."""
        self.t.broken |= <uint32_t>RULES[rule]

    def find(self, uint32_t number, uint64_t page, uint32_t first=0, uint32_t n=CDP_SUMS_PER_PAGE):
        """Sums [first, first + n) of a page of file `number`, packed; None: they are not in memory."""
        cdef uint32_t out[1023]
        cdef int here
        if first > CDP_SUMS_PER_PAGE or n > CDP_SUMS_PER_PAGE - first:
            raise InvalidRequest("a page has 1023 checksums")
        with nogil:
            here = cdp_sums_slots_find(&self.t, number, page, first, n, out)
        return (<const char *>out)[:4 * n] if here else None

    def put(self, uint32_t number, uint64_t page, bytes sums):
        """All sums of a page, packed."""
        cdef const uint8_t *p = <const uint8_t *><const char *>sums
        cdef int rc
        if len(sums) != 4 * CDP_SUMS_PER_PAGE:
            raise InvalidRequest("a page has 1023 checksums")
        with nogil:
            rc = cdp_sums_slots_put(&self.t, number, page, <const uint32_t *>p)
        if rc < 0:
            raise MemoryError()

    def drop(self, uint32_t number):
        """Forget the pages of file `number`."""
        with nogil:
            cdp_sums_slots_drop(&self.t, number)
