"""The log: records -> frames in pool slots -> large direct writes, group commit.

Two locks, taken in this order:
    append  serialises writers; whoever holds it may append, close the open frame and roll to the next segment.
    io      guards the frame ring, what is written and durable, and who is writing.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from cdpcore.errors cimport cdp_status
from cdpcore.osapi cimport Os, cdp_os
from cdpcore.pool cimport BufferPool
from cdpcore.ring cimport FrameRing, pthread_cond_t, pthread_mutex_t


cdef extern from "format.h" nogil:
    struct cdp_frame_entry:
        uint64_t first_seq
        uint64_t first_ts_ns
        uint64_t flush_seq
        uint32_t offset_blocks
        uint32_t n_desc


cdef struct segment:
    uint32_t number         # 0: none
    int fd
    uint64_t salt
    uint64_t capacity_bytes # of its file while it is open: allocated
    uint64_t tail_bytes     # where the next frame goes
    uint64_t file_bytes     # once sealed
    uint64_t first_seq, last_seq      # last < first: empty
    uint64_t first_ts_ns, last_ts_ns
    uint32_t n_frames, frames_cap
    cdp_frame_entry *frames # directory, one per closed frame
    uint64_t end_frame      # ring number one past its last frame (set when it was rolled away)


# What a record may use of the open segment. A full device must not be in the way of what frees space or takes a restore back, so
# writes leave a sixteenth of a segment to the others, and those leave the last of it to what frees.
cdef enum room:
    ROOM_WRITE      # a write, zero or trim
    ROOM_EVENT      # a bookmark or restore
    ROOM_FREEING    # a destructive restore; a flush, of which there is one for each of the others


cdef class Log:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef BufferPool pool
    cdef FrameRing ring             # its mutex is the io lock
    cdef bytes directory            # VOLUME/log
    cdef const char *directory_c
    cdef uint8_t uuid[16]
    cdef uint64_t volume_bytes, created_ns
    cdef readonly uint64_t segment_bytes
    cdef uint64_t reserve_bytes, last_bytes     # of a segment: what writes leave free, and what events do
    cdef bytes reserve              # path of a small preallocated file that becomes a segment where there is no space for one; or empty
    cdef const char *reserve_c
    cdef bint direct, before

    # append lock
    cdef pthread_mutex_t append_mutex
    cdef segment current            # receives frames
    cdef segment spare              # prepared; no frames yet (io lock for handing over)
    cdef int held                   # no record is taken: HELD_...
    cdef uint32_t next_number
    cdef bint frame_open            # the ring's last frame still grows
    cdef uint64_t flush_seq         # last FLUSH or FUA record
    cdef uint64_t next_seq          # of the next record

    # io lock (ring.mutex)
    cdef pthread_cond_t work        # for the writer thread: a full frame
    cdef pthread_cond_t upkeep      # for the maintenance thread: a segment to seal, a spare to make
    cdef bint io_busy               # somebody writes or syncs
    cdef uint64_t written_seq, durable_seq
    cdef segment sealing            # rolled away, its run not made yet
    cdef bint sealing_published     # the volume has set its tree aside too: maintenance may begin
    cdef bint spare_busy            # a spare segment is being made
    cdef bint sealing_dirty, current_dirty   # written since its last sync
    cdef int failed                 # sticky errno after a failed write or sync
    cdef bint stopping
    cdef bint inline_maintenance    # no maintenance thread: a roll never waits for one
    cdef int maintenance_errno      # why the last seal failed: a roll is then refused instead of waiting
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
    cdef int open_segment(self, segment *s, uint32_t number, room kind, cdp_status *st) noexcept nogil
    cdef bint has_room(self, uint64_t data_bytes, room kind) noexcept nogil
    cdef int write_frames(self, uint64_t upto, cdp_status *st) noexcept nogil
    cdef int sync_segments(self, cdp_status *st) noexcept nogil
    cdef bint wants_spare(self) noexcept nogil
    cdef int take_io(self, cdp_status *st) noexcept nogil
    cdef void give_io(self, int rc, cdp_status *st) noexcept nogil
    cdef void fail(self, int errno_) noexcept nogil
    cdef int fail_sticky(self, cdp_status *st) noexcept nogil
    cdef void publish_sealing(self) noexcept nogil
