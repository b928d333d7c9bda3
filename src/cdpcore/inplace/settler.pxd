"""Settling: new content goes from Pending to the disk, in rounds, once its before-images are durable."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_cond_t, pthread_mutex_t
from cdpcore.inplace.disk cimport Disk
from cdpcore.inplace.disk_state cimport DiskState
from cdpcore.inplace.disk_sums cimport DiskSums
from cdpcore.inplace.pending cimport Pending, pending_change
from cdpcore.log.log cimport Log


# How far the disk is. Both only grow.
cdef struct reached:
    uint64_t seq            # it holds every record up to this one
    uint64_t change         # and every change of Pending before this number


cdef class DiskSettler:
    # constant after construction
    cdef Log log
    cdef Disk disk
    cdef Pending pending
    cdef DiskState state
    cdef DiskSums sums
    cdef uint32_t broken            # BREAK_... bits

    # guarded by `settling`; taken with no other lock held but the append lock, Pending's after it
    cdef pthread_mutex_t settling
    cdef pthread_cond_t settled     # a round has ended; for the applier thread: there is something to do
    cdef bint busy                  # somebody leads a round ...
    cdef bint syncing               # ... and somebody a sync of the disk
    cdef reached applied            # on the disk
    cdef reached synced             # on the disk durably, and DiskState says so
    cdef bint stopping
    cdef bint attended              # there is an applier thread
    cdef uint64_t commit_due_ms     # as LogWriter's

    # --- no lock held; the log's failure is theirs
    # Records up to `seq`, durable in the log, and changes before number `change` are on the disk at return; `sync`:
    # durably.
    cdef int settle(self, uint64_t seq, uint64_t change, bint sync, cdp_status *st) noexcept nogil
    # The same for every record and change so far, which become durable in the log first.
    cdef int settle_all(self, bint sync, cdp_status *st) noexcept nogil
    # A writer found no room in Pending: return when there may be some.
    cdef int make_room(self, cdp_status *st) noexcept nogil
    # Pending fills up: the applier should begin.
    cdef void wake_if_full(self) noexcept nogil
    # The last record that survives the end of this process: recovery does not put it back.
    cdef uint64_t covered_seq(self) noexcept nogil
    cdef bint all_synced(self) noexcept nogil
    cdef bint is_full(self) noexcept nogil
    cdef void note_due(self, uint32_t interval_ms, uint32_t look_ms) noexcept nogil

    # --- internal
    cdef int sync_disk(self, const reached *now, cdp_status *st) noexcept nogil
    cdef int round(self, reached *now, cdp_status *st) noexcept nogil
    cdef int apply(self, reached *now, cdp_status *st) noexcept nogil
    cdef int apply_changes(self, const pending_change *c, uint64_t end, cdp_status *st) noexcept nogil
    cdef void sum_changes(self, const pending_change *c, uint64_t end_sector) noexcept nogil
    cdef int put_sums(self, cdp_status *st) noexcept nogil
    cdef void wait_for_readers(self) noexcept nogil
