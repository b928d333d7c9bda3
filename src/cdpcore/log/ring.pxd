"""Frames in the slots of the buffer pool: which is open, finished, written, and read from."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.log.pool cimport BufferPool


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *, void *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_cond_init(pthread_cond_t *, void *)
    int pthread_cond_destroy(pthread_cond_t *)
    int pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *)
    int pthread_cond_broadcast(pthread_cond_t *)
    int pthread_cond_signal(pthread_cond_t *)


cdef extern from "log/frame.h" nogil:
    ctypedef struct cdp_frame:
        uint8_t *slot
        uint32_t slot_bytes
        uint32_t used_bytes
        uint32_t n_desc
        uint32_t frame
        uint32_t segment
        uint32_t total_bytes
        uint64_t file_off
        uint64_t salt
        uint64_t first_seq
        uint64_t last_seq
        uint64_t first_ts_ns
        uint64_t flush_seq


cdef struct ring_frame:
    cdp_frame f
    int fd              # of its segment
    uint32_t pins       # readers copying from the slot
    uint64_t whole_seq  # the last record that ends in it or before: its last one may go on in the next frame
    uint32_t closed     # 1: finished, in the queue


cdef class FrameRing:
    # constant after construction
    cdef BufferPool pool
    cdef uint64_t n                 # slots

    cdef pthread_mutex_t mutex      # the log's io lock: guards what follows, and what Log says it guards
    cdef pthread_cond_t changed     # anything that it guards changed
    cdef ring_frame *frames         # frame k is frames[k % n]
    cdef uint64_t opened, queued, written   # frames: started, finished, on disk; written <= queued <= opened

    cdef ring_frame *at(self, uint64_t k) noexcept nogil
    cdef ring_frame *last(self) noexcept nogil      # the one opened last; opened > 0
    cdef bint next_is_free(self) noexcept nogil     # mutex held
    # Takes the mutex itself.
    cdef uint8_t *pin(self, uint64_t loc, uint64_t *token) noexcept nogil
    cdef void unpin(self, uint64_t token) noexcept nogil
