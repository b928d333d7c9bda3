"""New content that waits to be put on the disk: a ring of changes in the order in which they go there, their data in
memory."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef struct pending_change:
    uint64_t seq            # when that record is durable in the log, it may go to the disk
    uint64_t start, end     # sectors
    uint64_t at             # its data's first byte, counted through all rounds of the ring; kind CDP_EXTENT_DATA only
    uint16_t kind           # enum cdp_extent_kind
    uint16_t recorded       # it is what record `seq` changed; 0: no record's, seq is the last one before it
    uint32_t pins           # readers copying from it


cdef class Pending:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef uint8_t *data
    cdef uint64_t data_bytes
    cdef pending_change *changes    # change k, counted from the first push, is changes[k % n_changes]
    cdef uint32_t n_changes

    cdef pthread_mutex_t mutex      # guards what follows; what a change says is constant from push to release
    cdef uint64_t first, next       # changes that are there: [first, next)
    cdef uint64_t from_bytes, to_bytes      # their data, in bytes of all rounds
    cdef uint64_t claimed_bytes
    cdef uint32_t claimed_changes
    cdef uint64_t released_seq      # no change of a record up to this one is there any more

    # Room for `n` changes with `n_bytes` of data; False: not now.
    cdef bint claim(self, uint64_t n_bytes, uint32_t n) noexcept nogil
    cdef void unclaim(self, uint64_t n_bytes, uint32_t n) noexcept nogil
    # One change, from what was claimed, its number being pushed(). In seq order: the caller's append lock.
    cdef void push(self, uint64_t seq, bint recorded, uint64_t start, uint64_t end, uint32_t kind,
                   const uint8_t *data) noexcept nogil
    cdef uint64_t pushed(self) noexcept nogil
    # Change `k`, if it has been pushed and waits for no record after `seq`, else NULL. Of those that are not released.
    cdef pending_change *ready(self, uint64_t k, uint64_t seq) noexcept nogil
    # The change of record `seq` that has `sector`, pinned; NULL: released meanwhile.
    cdef pending_change *pin(self, uint64_t seq, uint64_t sector) noexcept nogil
    cdef void unpin(self, pending_change *c) noexcept nogil
    cdef void copy_out(self, const pending_change *c, uint64_t skip, uint8_t *out, uint64_t n) noexcept nogil
    # Bytes of data that lie in one piece from byte `at` on, as in pending_change.at, and where; at most n. Changes with
    # data that were pushed one after the other lie so.
    cdef const uint8_t *piece(self, uint64_t at, uint64_t *n) noexcept nogil
    # The changes before `change` are on the disk, and with them every record up to `seq`: they go. The record that a
    # reader has pinned a change of, and all behind it, stays until the next call.
    cdef void release(self, uint64_t seq, uint64_t change) noexcept nogil
    cdef uint64_t released(self) noexcept nogil
    cdef uint64_t gone(self) noexcept nogil     # so many changes were released
    cdef uint64_t used_bytes(self) noexcept nogil
