"""Frames in the slots of the buffer pool: which is open, finished, written, and read from. And the log's io lock."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_cond_t, pthread_mutex_t
from cdpcore.log.frame cimport cdp_frame
from cdpcore.log.pool cimport BufferPool
from cdpcore.system.io_queue cimport cdp_io


cdef struct ring_frame:
    cdp_frame f
    int fd              # of its segment
    uint32_t *sums      # of its blocks: filled in before it is written
    uint32_t pins       # readers copying from the slot
    uint64_t whole_seq  # the last record that ends in it or before: its last one may go on in the next frame
    cdp_io io           # its write, where that is submitted
    uint64_t began_ns   # ... when its write began
    bint complete       # its write is; those before it may still be in flight


cdef class FrameRing:
    # constant after construction
    cdef BufferPool pool
    cdef uint64_t n                 # slots

    # guarded by mutex
    cdef pthread_mutex_t mutex      # the log's io lock: guards what Log and LogFiles say, too
    cdef pthread_cond_t changed     # anything that it guards changed
    cdef ring_frame *frames         # frame k is frames[k % n]
    cdef uint64_t opened, queued, written   # frames: started, finished, on disk; written <= queued <= opened
    cdef char failed_text[160]      # what failed, and what to do; whole before `failed` is set
    cdef int failed                 # errno of the log's first failed write or sync; sticky; read without the lock too
    cdef bint stopping              # the writer and maintenance threads are to return

    cdef ring_frame *at(self, uint64_t k) noexcept nogil
    cdef ring_frame *last(self) noexcept nogil      # the one opened last; opened > 0
    cdef bint next_is_free(self) noexcept nogil     # mutex held
    # Sets st to the failure, which is one: CDP_UNAVAILABLE.
    cdef int fail_sticky(self, cdp_status *st) noexcept nogil
    # mutex held: the first failure is kept; `where`: what was being done
    cdef void note_failure(self, int errno_, const char *where) noexcept nogil
    # mutex not held
    cdef void fail(self, int errno_, const char *where) noexcept nogil
    cdef uint8_t *pin(self, uint64_t loc, uint64_t *token) noexcept nogil
    cdef void unpin(self, uint64_t token) noexcept nogil
