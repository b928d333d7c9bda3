"""Finished frames written to their segments, and the segments made durable: two duties, each of one thread at a time.

All under the io lock (FrameRing.mutex), which is not held while the device works.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.stages cimport Stages
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_cond_t
from cdpcore.log.ring cimport FrameRing
from cdpcore.log.segments cimport LogFiles
from cdpcore.system.io_queue cimport cdp_ioq
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef class LogWriter:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef FrameRing ring             # its slots outlive what is in flight from them
    cdef LogFiles files
    cdef Stages stages              # the volume's
    cdef uint64_t zero_bytes, zero_gap  # ZERO_BYTES and ZERO_GAP, or less in small segments

    # guarded by the io lock
    cdef pthread_cond_t work        # for the writer thread: a full frame
    cdef bint attended              # there is a writer thread
    cdef uint64_t commit_due_ms     # when what is not durable will be made so; 0: all was durable when last looked
    cdef bint write_busy            # a thread writes
    cdef bint sync_busy             # a thread syncs
    cdef uint64_t written_seq       # last record that is in a file, with all before it; read without a lock too
    cdef uint64_t durable_seq       # last record that is durable, with all before it; it ends its frame
    cdef uint64_t bytes_written, frames_written, syncs, zeros_written    # zeros: bytes
    # The last frame in which a record ends the frame: its segment (0: none since opening), where it ends in that file,
    # and that record; of those that are written, and of those that are durable. What is shipped to a standby ends so.
    cdef uint32_t written_segment, durable_segment
    cdef uint64_t written_end, durable_end, written_whole, durable_whole
    cdef pthread_cond_t shipped     # signalled where `shipping` is set and more is durable
    cdef bint shipping              # somebody waits for that

    cdef uint64_t synced_bytes      # bytes_written when the last sync began
    cdef uint32_t small_syncs       # the last so many syncs had less than SMALL_BYTES each
    cdef uint32_t zero_segment      # zeros are being written to this segment; 0: to none ...
    cdef uint64_t zero_from, zero_to    # ... to these bytes of it
    cdef bint no_zeros              # they can't be written, or there is no memory for them

    # the thread that has set zero_segment
    cdef uint8_t *zeros             # zero_bytes of them, once they are needed; never touched, so they take no memory

    # the thread that has set write_busy
    cdef cdp_ioq *queue             # made when two frames are first written at once
    cdef bint no_queue              # there is none to be had
    cdef uint64_t submitted         # frames [ring.written, submitted) are in flight, or complete behind one that is
    cdef uint32_t in_flight

    cdef uint32_t broken            # BREAK_... bits: rules that a test has broken

    # No lock held. Frames up to the ring's number `upto` are in their files at return; upto <= ring.queued. more: start
    # others that are finished as well, and leave them in flight.
    cdef int write(self, uint64_t upto, bint more, cdp_status *st) noexcept nogil
    # Any lock held: there is something for the writer thread.
    cdef void call(self) noexcept nogil
    # No lock held. Records up to `seq` are durable at return; seq <= written_seq.
    cdef int sync(self, uint64_t seq, cdp_status *st) noexcept nogil
    # No lock held. Nothing is in flight at return.
    cdef void drain(self) noexcept nogil
    # io lock held: small durable appends are going on, and soon come to space that was never written.
    cdef bint wants_zeros(self) noexcept nogil
    # No lock held. Writes zeros ahead of the tail, where they are wanted.
    cdef void write_zeros(self) noexcept nogil
    # No lock held. No zeros are being written to that segment at return, which is not the open one.
    cdef void wait_zeros(self, uint32_t segment) noexcept nogil

    # internal: by the thread that has set write_busy or sync_busy
    cdef int write_frames(self, uint64_t upto, bint more, cdp_status *st) noexcept nogil
    cdef int start_some(self, uint64_t end, cdp_status *st) noexcept nogil
    cdef int finish_some(self, cdp_status *st) noexcept nogil
    cdef int write_one(self, cdp_status *st) noexcept nogil
    cdef void advance(self) noexcept nogil
    cdef int sync_segments(self, int old_fd, int new_fd, cdp_status *st) noexcept nogil
    cdef bint reached(self, uint64_t upto, bint more) noexcept nogil
    # internal: io lock held
    cdef bint under_zeros(self, uint64_t end) noexcept nogil
    cdef void note_failure(self, int rc, const cdp_status *st) noexcept nogil
