"""Frames in the slots of a log: which is open, finished, written, and read from. And the log's io lock."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_cond_t, pthread_mutex_t
from cdpcore.log.frame cimport cdp_frame
from cdpcore.log.memory cimport Memory
from cdpcore.log.slots cimport cdp_slots
from cdpcore.system.io_queue cimport cdp_io
from cdpcore.system.os cimport Os


cdef enum:
    FRAMES = 1024       # that the ring knows: not written, at most


cdef struct ring_frame:
    cdp_frame f
    int fd              # of its segment
    uint32_t *sums      # of its blocks; 0: not known. All are, before it is written
    uint32_t slot, use  # its slot, and the slot's use
    uint64_t finished_ms    # when it was; monotonic
    uint64_t whole_seq  # the last record that ends in it or before: its last one may go on in the next frame
    cdp_io io           # its write, where that is submitted
    uint64_t began_ns   # ... when its write began
    bint complete       # its write is; those before it may still be in flight


cdef class FrameRing:
    # constant after construction
    cdef Os os
    cdef readonly Memory memory     # where its slots come from
    cdef readonly uint64_t slot_bytes
    cdef bint ahead                 # beyond unwritten_bytes, memory is only taken where it is prepared
    cdef uint64_t unwritten_bytes   # what may wait to be written, whatever the bound of the memory

    # guarded by mutex
    cdef pthread_mutex_t mutex      # the log's io lock: guards what Log and LogFiles say, too
    cdef pthread_cond_t changed     # anything that it guards changed
    cdef cdp_slots slots            # slots.h says what needs no lock
    cdef ring_frame *frames         # frame k is frames[k % FRAMES]
    cdef uint64_t opened, queued, written   # frames: started, finished, on disk; written <= queued <= opened
    cdef uint64_t covered_bytes     # of the newest slot: what its finished frames take
    cdef uint32_t max_wait_ms       # beyond unwritten_bytes no frame is begun while one waits for longer; 0: any time
    cdef char failed_text[160]      # what failed, and what to do; whole before `failed` is set
    cdef int failed                 # errno of the log's first failed write or sync; sticky; read without the lock too
    cdef bint stopping              # the writer and maintenance threads are to return

    cdef ring_frame *at(self, uint64_t k) noexcept nogil
    cdef ring_frame *last(self) noexcept nogil      # the one opened last; opened > 0
    # Sets st to the failure, which is one: CDP_UNAVAILABLE.
    cdef int fail_sticky(self, cdp_status *st) noexcept nogil
    # mutex held: the first failure is kept; `where`: what was being done
    cdef void note_failure(self, int errno_, const char *where) noexcept nogil
    # mutex not held
    cdef void fail(self, int errno_, const char *where) noexcept nogil
    # mutex held: memory for a frame of `need` bytes that goes to location `loc`: the rest of the newest slot, or a slot
    # that the log has or gets at once. The mutex may be let go meanwhile. 0: there is none before a frame is written,
    # or a reader is through.
    cdef bint make_room(self, uint64_t loc, uint64_t need) noexcept nogil
    # mutex held, after make_room: frame `opened` begins at the place returned.
    cdef uint8_t *place(self, ring_frame *r) noexcept nogil
    # mutex held: the frame opened last is finished.
    cdef void finished(self) noexcept nogil
    # mutex held, where make_room has none: it may have when frames before this one are written; 0: what is in the way
    # is a reader
    cdef uint64_t in_the_way(self) noexcept nogil
    # mutex held: frame k's bytes are still in its slot
    cdef bint has(self, uint64_t k) noexcept nogil
    # mutex not held: give back what was neither written nor read since the last call, and what is beyond the bound.
    cdef void give_back(self) noexcept nogil
    # internal
    cdef uint8_t *more_memory(self) noexcept nogil
    cdef bint pays(self, uint64_t unwritten) noexcept nogil
    cdef bint is_read(self) noexcept nogil
    cdef uint8_t *prepared(self) noexcept nogil
    cdef bint is_late(self) noexcept nogil

    cdef uint8_t *pin(self, uint64_t loc, uint32_t *token) noexcept nogil
    cdef void unpin(self, uint32_t token) noexcept nogil
