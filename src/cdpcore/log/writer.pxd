"""Finished frames written to their segments, and the segments made durable: two duties, each of one thread at a time.

All under the io lock (FrameRing.mutex), which is not held while the device works.
"""
from libc.stdint cimport uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_cond_t
from cdpcore.log.ring cimport FrameRing
from cdpcore.log.segments cimport LogFiles
from cdpcore.system.os_table cimport cdp_os


cdef class LogWriter:
    # constant after construction
    cdef const cdp_os *table
    cdef FrameRing ring
    cdef LogFiles files

    # guarded by the io lock
    cdef pthread_cond_t work        # for the writer thread: a full frame
    cdef bint write_busy            # a thread writes
    cdef bint sync_busy             # a thread syncs
    cdef uint64_t written_seq       # last record that is in a file, with all before it; read without a lock too
    cdef uint64_t durable_seq       # last record that is durable, with all before it; it ends its frame
    cdef uint64_t bytes_written, frames_written, syncs

    # No lock held. Frames up to the ring's number `upto` are in their files at return; upto <= ring.queued.
    cdef int write(self, uint64_t upto, cdp_status *st) noexcept nogil
    # No lock held. Records up to `seq` are durable at return; seq <= written_seq.
    cdef int sync(self, uint64_t seq, cdp_status *st) noexcept nogil

    # internal: by the thread that has set write_busy or sync_busy
    cdef int write_frames(self, uint64_t upto, cdp_status *st) noexcept nogil
    cdef int sync_segments(self, int old_fd, int new_fd, cdp_status *st) noexcept nogil
    # internal: io lock held
    cdef void note_failure(self, int rc, const cdp_status *st) noexcept nogil
