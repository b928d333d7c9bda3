"""The memory that the logs of a process share, and its bound.

Threading: any thread. The logs that use it keep it.
"""
from cdpcore.base.errors import InvalidRequest

cdef extern from * nogil:
    uint64_t load "__atomic_load_n"(const uint64_t *p, int order)
    void store "__atomic_store_n"(uint64_t *p, uint64_t v, int order)
    enum: RELAXED "__ATOMIC_RELAXED"


cdef class Memory:
    """`limit_bytes` and one slot a log are the most that the logs take together."""

    def __cinit__(self, uint64_t limit_bytes):
        cdp_memory_init(&self.m, 0)
        self.limit_bytes = limit_bytes

    def __dealloc__(self):
        cdp_memory_destroy(&self.m)

    @property
    def limit_bytes(self) -> int:
        """The bound. It can be changed at any time; where it becomes less, logs give back what is written within some
        seconds."""
        return load(&self.m.limit_bytes, RELAXED)

    @limit_bytes.setter
    def limit_bytes(self, uint64_t limit_bytes):
        if limit_bytes == 0 or limit_bytes >> 62:
            raise InvalidRequest(f"memory of {limit_bytes} bytes", "use a whole number of bytes, 1 to 2^62")
        store(&self.m.limit_bytes, limit_bytes, RELAXED)

    @property
    def used_bytes(self) -> int:
        """What the logs have now."""
        return load(&self.m.used_bytes, RELAXED)

    @property
    def most_bytes(self) -> int:
        """The most that they ever had."""
        return load(&self.m.most_bytes, RELAXED)
