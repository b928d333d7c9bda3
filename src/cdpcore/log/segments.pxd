"""The files of the log: the segment that receives frames, a spare one, and one that was set aside for sealing."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from cdpcore.base.format cimport cdp_frame_entry
from cdpcore.base.status cimport cdp_status
from cdpcore.log.activity cimport cdp_activity
from cdpcore.log.pace cimport pace
from cdpcore.log.record cimport room
from cdpcore.log.ring cimport FrameRing
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef struct segment:
    uint32_t number         # 0: none
    int fd
    uint64_t salt
    uint64_t capacity_bytes # what its file may grow to
    uint64_t allocated_bytes    # size of its file while it is open: allocated; reduced with the append lock held
    uint64_t tail_bytes     # where the next frame goes
    uint64_t zeroed_bytes   # up to there zeros were written ahead of the tail
    uint64_t file_bytes     # once sealed
    uint64_t first_seq, last_seq      # last < first: empty
    uint64_t first_ts_ns, last_ts_ns
    uint32_t n_frames, frames_cap
    cdp_frame_entry *frames # directory, one per closed frame
    uint32_t *sums          # checksums of the blocks of the file; those of frames that are written are valid
    uint64_t end_frame      # ring number one past its last frame (set when it was rolled away)
    cdp_activity *activity  # what its records do; NULL: none yet, or no memory for it; set with the io lock held too


cdef class LogFiles:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef FrameRing ring             # its mutex is the io lock
    cdef bytes directory            # VOLUME/log
    cdef const char *directory_c
    cdef uint8_t uuid[16]
    cdef uint64_t volume_bytes, created_ns
    cdef readonly uint64_t segment_bytes
    cdef bytes reserve              # path of a preallocated file that becomes a segment on a full disk; or empty
    cdef const char *reserve_c
    cdef bint direct                # direct I/O
    cdef bint before                # before-images
    cdef bint inline_maintenance    # no maintenance thread: an appender that needs the next segment never waits for one

    # atomic; only grows
    cdef uint32_t sealed_upto       # segments up to this number are sealed: the checksums of their blocks are in files

    # guarded by the append lock; exchanged with the io lock held too
    cdef segment current            # receives frames
    cdef segment spare              # prepared; no frames yet

    # guarded by the io lock
    cdef uint32_t next_number       # of the next file
    cdef segment sealing            # set aside, its run not made yet
    cdef bint sealing_published     # its tree is set aside too: maintenance may begin
    cdef bint spare_busy            # a segment file is being made, or cut
    cdef bint grow_busy             # the current segment's file is being grown or cut
    cdef bint growth_asked          # little is left of what is allocated of it; set with the append lock held too ...
    cdef uint64_t asked_bytes       # ... by an appender that was there
    cdef uint64_t rolled_bytes      # of the segments that were set aside
    cdef int cut_fd, cut_spare_fd   # what is being cut, and to what; of the thread that set grow_busy or spare_busy
    cdef uint64_t cut_bytes, cut_spare_bytes
    cdef pace pace                  # how much is allocated at once
    cdef bint sealing_dirty, current_dirty   # written since its last sync
    cdef bint broken                # see break_rule
    cdef int maintenance_errno      # why the last seal failed: the next segment is then refused instead of waited for

    # Append lock held, no frame open: the current segment is set aside for sealing and the next one becomes current.
    # put_aside: without a next one, if the current one has frames and nothing else waits for sealing; False: it did
    # not.
    cdef int next_segment(self, room kind, cdp_status *st) noexcept nogil
    cdef bint put_aside(self) noexcept nogil
    # The tree of the segment that was set aside is, too.
    cdef void publish_sealing(self) noexcept nogil
    # io lock not held. The checksums of blocks of segment `number`, which are written; False: it is sealed. No lock is
    # taken for that.
    cdef bint sums_of(self, uint32_t number, uint64_t block, uint32_t n, uint32_t *out) noexcept nogil
    # Append lock held: `bytes` of the current segment's file, at most its capacity, are allocated at return.
    # CDP_NOSPACE: nothing is lost.
    cdef int reach(self, uint64_t bytes, cdp_status *st) noexcept nogil
    # Append lock held: `bytes` are in use or promised. The maintenance thread allocates more where little is left.
    cdef void ask_growth(self, uint64_t bytes) noexcept nogil
    # Append lock and io lock held, the current segment is used up to `used`, and nobody writes behind it. True: its
    # rate asks for less than is allocated of it or of the spare; end_cut() follows, without a lock.
    cdef bint begin_cut(self, uint64_t used) noexcept nogil
    cdef void end_cut(self) noexcept nogil
    # io lock held: there is something for the maintenance thread.
    cdef void call(self) noexcept nogil
    # io lock held: it is time to make a spare.
    cdef bint wants_spare(self) noexcept nogil

    # io lock held: `number` and all before it are sealed.
    cdef void note_sealed(self, uint32_t number) noexcept nogil

    # internal
    cdef void let_go(self, segment *s) noexcept nogil
    cdef void move_aside(self) noexcept nogil
    cdef uint64_t now_ms(self) noexcept nogil
    cdef int grow(self, uint64_t bytes, uint64_t used, cdp_status *st) noexcept nogil   # io lock held, grow_busy unset
    cdef int64_t allocate(self, int fd, uint64_t old, uint64_t least, uint64_t *upto) noexcept nogil
    cdef int open_segment(self, segment *s, uint32_t number, room kind, cdp_status *st) noexcept nogil
