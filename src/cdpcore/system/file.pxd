"""The C table of OS calls, and an open file on one."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from cdpcore.system.os_table cimport cdp_os


# Raise for a negative errno; `path` is for the message.
cdef int done(int64_t rc, const char *where, object path, uint64_t offset=*) except -1


# An open file or block device. Fields are guarded by the GIL; the calls themselves run without it.
cdef class File:
    cdef readonly object os      # the owner of the table; kept alive
    cdef const cdp_os *table
    cdef readonly object path    # str, for messages
    cdef readonly bint direct    # buffers, offsets and lengths must be multiples of CDP_DIRECT_ALIGN
    cdef int fd
    cdef bint dead               # close() was called: no new calls
    cdef uint32_t running        # calls inside the OS now; the last one closes a dead file
    cdef int enter(self) except -1
    cdef int leave(self) except -1


# A File that owns an open handle of `os`'s table.
cdef File file_of_handle(object os, const cdp_os *table, int fd, object path, bint direct)
