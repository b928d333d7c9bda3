"""Up to which record a protected disk holds everything, durably: VOLUME/disk.state (docs/format.md)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.system.file cimport File
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef class DiskState:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef int fd
    cdef object path
    cdef uint8_t uuid[16]
    cdef readonly tuple damaged         # byte offsets of copies that fail, as found
    # constant after watch()
    cdef File disk                      # whose time of change is noted
    cdef int disk_fd                    # its handle; -1: the time stays as found
    # written by put(), by one thread at a time
    cdef uint64_t generation
    cdef readonly uint64_t applied_seq
    cdef readonly uint64_t changed_ns   # of the disk when it held that, or later; 0: not known
    # written by wrote(), by one thread at a time; put() reads beside it what only grows
    cdef uint64_t clock_ns              # what the clock showed after the last write to the disk; 0: there was none
    cdef uint64_t latest_ns             # a time of change from before the clock was set back, for the next put()

    cdef find(self)
    cpdef close(self)
    cdef void wrote(self) noexcept nogil   # to the disk; the leader of a round, or recovery
    cdef uint64_t latest(self) noexcept nogil
    cdef int put(self, uint64_t applied_seq, cdp_status *st) noexcept nogil     # durable at return
