"""The log: records -> frames in pool slots -> large direct writes, group commit.

Two locks, taken in this order:
    append  serialises writers; whoever holds it may append, close the open frame and roll to the next segment.
    io      guards the frame ring, what is written and durable, and who is writing.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_cond_t, pthread_mutex_t
from cdpcore.log.pool cimport BufferPool
from cdpcore.log.segments cimport LogFiles, room


cdef class Log(LogFiles):
    # constant after construction
    cdef BufferPool pool
    cdef uint64_t reserve_bytes, last_bytes     # of a segment: what writes leave free, and what events do

    # append lock
    cdef pthread_mutex_t append_mutex
    cdef int held                   # no record is taken: a bit for each reason, HELD_...; changed with the io lock
    cdef bint frame_open            # the ring's last frame still grows
    cdef uint64_t flush_seq         # last FLUSH or FUA record
    cdef uint64_t next_seq          # of the next record

    # io lock (ring.mutex)
    cdef pthread_cond_t work        # for the writer thread: a full frame
    cdef bint io_busy               # somebody writes or syncs
    cdef uint64_t written_seq, durable_seq
    cdef uint64_t bytes_written, frames_written, syncs

    cdef void lock_append(self) noexcept nogil
    cdef void unlock_append(self) noexcept nogil
    # All of these: append lock held.
    cdef int make_room(self, uint64_t data_bytes, room kind, bint *rolled, cdp_status *st) noexcept nogil
    cdef int append(self, uint64_t seq, uint64_t ts_ns, uint64_t start, uint64_t sectors, uint16_t kind, uint16_t flags,
                    const uint8_t *data, uint32_t data_bytes, uint32_t crc, uint64_t *loc, cdp_status *st) noexcept nogil
    cdef void close_frame(self) noexcept nogil
    cdef int roll(self, room kind, cdp_status *st) noexcept nogil
    cdef bint set_aside(self, uint64_t seq) noexcept nogil

    # No lock held.
    cdef uint64_t durable(self) noexcept nogil      # the last record that is; it ends its frame
    cdef int wait_durable(self, uint64_t seq, cdp_status *st) noexcept nogil
    cdef int io_round(self, uint64_t sync_seq, cdp_status *st) noexcept nogil
    cdef uint64_t written(self) noexcept nogil
    cdef int put_out(self, uint64_t beyond, cdp_status *st) noexcept nogil
    cdef int put_all_out(self, cdp_status *st) noexcept nogil

    # internal
    cdef int open_frame(self, cdp_status *st) noexcept nogil
    cdef bint has_room(self, uint64_t data_bytes, room kind) noexcept nogil
    cdef int write_frames(self, uint64_t upto, cdp_status *st) noexcept nogil
    cdef int sync_segments(self, cdp_status *st) noexcept nogil
    cdef int take_io(self, cdp_status *st) noexcept nogil
    cdef void give_io(self, int rc, cdp_status *st) noexcept nogil
