"""Operations on files, many in flight (system/io_queue.h)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "system/io_queue.h" nogil:
    enum:
        CDP_IO_READ
        CDP_IO_WRITE
        CDP_IO_DATASYNC
        CDP_IO_MAX_DEPTH

    ctypedef struct cdp_io:
        cdp_io *next        # of a list that is submitted; the queue's while in flight
        uint32_t op
        uint32_t durable    # of a write: as if a datasync of its range followed
        int fd
        void *buf
        uint64_t n, off     # bytes
        int64_t result      # bytes, or a negative errno
        void *owner         # the caller's

    ctypedef struct cdp_ioq:
        pass
