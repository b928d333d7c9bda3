"""Blocks of the log and the base that did not match their checksums."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_mutex_t


cdef enum:
    MAX_DAMAGE = 64
    THE_DISK = 0xFFFFFFFF   # number: of the protected disk


cdef struct damaged_block:
    uint32_t number         # of the segment; 0: the base; THE_DISK
    uint64_t offset         # bytes, in its file
    uint64_t expected, found
    char text[80]


cdef class Damage:
    # guarded by mutex
    cdef pthread_mutex_t mutex
    cdef damaged_block blocks[MAX_DAMAGE]   # what is in it stays as it is
    cdef uint32_t n
    cdef uint64_t refused                   # reads

    # A read failed so, as cdp_read_checked says in st; st gets the text that names the file. Returns st.code.
    cdef int note(self, uint32_t number, cdp_status *st) noexcept nogil
