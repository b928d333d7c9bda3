"""The log: records -> frames in slots -> large direct writes, group commit.

Two locks, taken in this order:
    append  serialises records: its holder appends, closes the open frame, goes on to the next segment.
    io      (FrameRing.mutex) guards the frame ring, what is written and durable, and who writes and syncs.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from cdpcore.base.stages cimport Stages
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_cond_t, pthread_mutex_t
from cdpcore.index.versions cimport Versions
from cdpcore.log.clock_steps cimport ClockSteps
from cdpcore.log.record cimport part, room
from cdpcore.log.rewrites cimport cdp_rewrites
from cdpcore.log.ring cimport FrameRing
from cdpcore.log.segments cimport LogFiles
from cdpcore.log.writer cimport LogWriter
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef class Log:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef readonly FrameRing ring
    cdef readonly LogFiles files
    cdef readonly LogWriter writer
    cdef readonly Versions versions # the index of what is in the log
    cdef readonly ClockSteps clock  # the times of its records
    cdef readonly Stages stages     # the volume's
    cdef uint64_t kept_free_bytes     # of a segment: what writes leave free ...
    cdef uint64_t last_bytes        # ... and what events leave free of that

    # guarded by append
    cdef pthread_mutex_t append_mutex
    cdef int held                   # HELD_... bits: why no record is accepted; changed under the io lock too
    cdef bint frame_open            # the ring's last frame still grows; changed with the io lock held too
    cdef uint64_t last_seq          # of the last record
    cdef uint64_t last_ts_ns        # of the last record
    cdef uint64_t flush_seq         # last FLUSH or FUA record; 0: none
    cdef uint64_t framed_bytes      # of frames that were closed since opening ...
    cdef uint64_t unframed_bytes    # ... and of data in the open one
    cdef pthread_mutex_t counting   # held for a look at a segment's activity, and while it is added to
    cdef cdp_rewrites *rewrites     # NULL: not counted; once it is there it stays, and reads add to it without a lock
    cdef bint unflushed             # a record was appended since the last FLUSH or FUA record, or since opening

    # guarded by io
    cdef bint round_busy            # a thread writes and syncs what others wait for ...
    cdef pthread_cond_t rounds      # ... and has done so
    cdef uint64_t look_due_ms       # when to look for idle memory, monotonic; 0: there is no memory

    cdef void lock_append(self) noexcept nogil
    cdef void unlock_append(self) noexcept nogil
    # Append lock held. One record of n > 0 parts, whole in one segment: room for it, its seq and time, its place in a
    # frame. *seq is set before any of it can reach a file, and to 0 where it fails (CDP_NOSPACE: nothing is lost, a
    # later one may succeed). No reader sees the record before publish().
    cdef int append_record(self, part *parts, uint32_t n, room kind, uint64_t *seq, cdp_status *st) noexcept nogil
    # Append lock held: the record appended last becomes visible, whole.
    cdef void publish(self, const part *parts, uint32_t n) noexcept nogil
    # No lock: how much was added to the log since opening, give or take what is being appended.
    cdef uint64_t added_bytes(self) noexcept nogil
    # Append lock held: a flush after which nothing was appended. Refused while the volume's files are away.
    cdef int flushed(self, cdp_status *st) noexcept nogil
    # Append lock held: everything appended so far may be written. A failure is sticky.
    cdef void close_frame(self) noexcept nogil

    # No lock held.
    cdef uint64_t durable(self) noexcept nogil      # the last record that is; it ends its frame
    cdef uint64_t written(self) noexcept nogil      # the last record that is in a file as a whole, with all before it
    # Everything up to `seq` is durable at return.
    cdef int wait_durable(self, uint64_t seq, cdp_status *st) noexcept nogil
    # Returns when written() is more than `beyond`, or all records so far are written.
    cdef int write_out(self, uint64_t beyond, cdp_status *st) noexcept nogil
    cdef uint64_t newest(self) noexcept nogil

    # internal: append lock held
    cdef void count(self, const part *parts, uint32_t n, uint64_t seq, uint64_t ts_ns) noexcept nogil
    cdef int make_room(self, uint64_t data_bytes, room kind, cdp_status *st) noexcept nogil
    cdef bint has_room(self, uint64_t data_bytes, room kind) noexcept nogil
    cdef int allocated(self, uint64_t data_bytes, room kind, cdp_status *st) noexcept nogil
    cdef uint64_t event_end(self, uint64_t data_bytes, room kind) noexcept nogil
    cdef uint64_t write_end(self, uint64_t data_bytes) noexcept nogil
    cdef int next_segment(self, room kind, cdp_status *st) noexcept nogil
    cdef int seal_tree(self, cdp_status *st) noexcept nogil
    cdef int append_part(self, part *p, uint64_t seq, uint64_t ts_ns, bint more, cdp_status *st) noexcept nogil
    # ... with room for a part of so much data
    cdef int open_frame(self, uint64_t data_bytes, cdp_status *st) noexcept nogil
    # internal: no lock held
    cdef uint64_t queued(self) noexcept nogil               # the ring's
    cdef bint has_frames(self) noexcept nogil
    cdef bint is_look_due(self, uint64_t now_ms) noexcept nogil
    cdef void note_due(self, uint32_t interval_ms, uint32_t look_ms) noexcept nogil
    cdef int write_record(self, uint64_t seq, cdp_status *st) noexcept nogil
