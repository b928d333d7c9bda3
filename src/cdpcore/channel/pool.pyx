"""The buffer pool: one anonymous mapping, cut into equal slots. The platform `local` has its buffer groups there.

Threading: immutable after construction; its owner says who may touch a slot.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo

from cdpcore.base.errors import InvalidRequest, OutOfSpace


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class BufferPool:
    """`n_slots` slots of `slot_bytes` bytes (a multiple of 4096) from `os`. Freed with the object."""

    def __cinit__(self, Os os not None, *, uint64_t slot_bytes, uint32_t n_slots):
        if slot_bytes % 4096 or slot_bytes < 4096 or slot_bytes > 16 << 20:
            raise InvalidRequest(f"pool slot of {slot_bytes} bytes", f"use a multiple of 4096 up to {16 << 20}")
        if n_slots < 2 or n_slots > 4096:
            raise InvalidRequest(f"pool of {n_slots} slots", "use 2 to 4096")
        self.os = os
        self.table = os.table
        self.slot_bytes = slot_bytes
        self.n_slots = n_slots
        self.base = <uint8_t *>self.table.pages(self.table.ctx, slot_bytes * n_slots)
        if self.base == NULL:
            raise OutOfSpace(f"no memory for a buffer pool of {slot_bytes * n_slots} bytes", "lower pool_bytes")

    def __dealloc__(self):
        if self.base != NULL:
            self.table.free_pages(self.table.ctx, self.base, self.slot_bytes * self.n_slots)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        """memoryview(pool): all slots, in order, writable. A view keeps the pool."""
        PyBuffer_FillInfo(buffer, self, self.base, self.slot_bytes * self.n_slots, 0, flags)

    cdef uint8_t *slot(self, uint32_t i) noexcept nogil:
        return self.base + i * self.slot_bytes

    @property
    def bytes(self) -> int:
        """Size of the whole pool in bytes."""
        return self.slot_bytes * self.n_slots
