"""The C table of OS calls, and an open file on one."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from cdpcore.system.io_queue cimport cdp_io, cdp_ioq


cdef extern from "system/os.h" nogil:
    ctypedef struct cdp_os:
        void *ctx
        int (*open)(void *ctx, const char *path, uint32_t flags) noexcept nogil
        int (*close)(void *ctx, int fd) noexcept nogil
        int64_t (*pread)(void *ctx, int fd, void *buf, uint64_t n, uint64_t off) noexcept nogil
        int64_t (*pwrite)(void *ctx, int fd, const void *buf, uint64_t n, uint64_t off) noexcept nogil
        int (*datasync)(void *ctx, int fd) noexcept nogil
        int (*allocate)(void *ctx, int fd, uint64_t off, uint64_t n) noexcept nogil
        int (*truncate)(void *ctx, int fd, uint64_t size) noexcept nogil
        int (*punch)(void *ctx, int fd, uint64_t off, uint64_t n) noexcept nogil
        int64_t (*size)(void *ctx, int fd) noexcept nogil
        uint64_t (*changed_ns)(void *ctx, int fd) noexcept nogil
        int (*next_data)(void *ctx, int fd, uint64_t off, uint64_t *start, uint64_t *end) noexcept nogil
        void (*expect)(void *ctx, int fd, uint64_t off, uint64_t n) noexcept nogil
        cdp_ioq *(*queue)(void *ctx, uint32_t depth) noexcept nogil
        uint32_t (*submit)(void *ctx, cdp_ioq *q, cdp_io *list, uint32_t n) noexcept nogil
        uint32_t (*complete)(void *ctx, cdp_ioq *q, cdp_io **done, uint32_t max, int wait) noexcept nogil
        int (*queue_fd)(void *ctx, cdp_ioq *q) noexcept nogil
        void (*free_queue)(void *ctx, cdp_ioq *q) noexcept nogil
        int (*lock)(void *ctx, int fd) noexcept nogil
        int (*map)(void *ctx, int fd, uint64_t n, void **addr) noexcept nogil
        int (*unmap)(void *ctx, void *addr, uint64_t n) noexcept nogil
        int (*rename)(void *ctx, const char *from_, const char *to) noexcept nogil
        int (*unlink)(void *ctx, const char *path) noexcept nogil
        int (*mkdir)(void *ctx, const char *path) noexcept nogil
        int (*rmdir)(void *ctx, const char *path) noexcept nogil
        int (*sync_dir)(void *ctx, const char *path) noexcept nogil
        int64_t (*list_dir)(void *ctx, const char *path, char *buf, uint64_t cap) noexcept nogil
        uint64_t (*now_ns)(void *ctx) noexcept nogil
        int (*random)(void *ctx, void *buf, uint64_t n) noexcept nogil
        void *(*pages)(void *ctx, uint64_t n) noexcept nogil
        void (*free_pages)(void *ctx, void *addr, uint64_t n) noexcept nogil


# Raise for a negative errno; `path` is for the message.
cdef int done(int64_t rc, const char *where, object path, uint64_t offset=*) except -1


# An open file or block device. Fields are guarded by the GIL; the calls themselves run without it.
cdef class File:
    cdef readonly object os      # whom the table belongs to; kept alive
    cdef const cdp_os *table
    cdef readonly object path    # str, for messages
    cdef readonly bint direct    # buffers, offsets and lengths must be multiples of CDP_DIRECT_ALIGN
    cdef int fd
    cdef bint dead               # close() was called: no new calls
    cdef uint32_t running        # calls inside the OS now; the last one closes a dead file
    cdef int enter(self) except -1
    cdef int leave(self) except -1


# A File that owns an open handle of `os`'s table.
cdef File adopt(object os, const cdp_os *table, int fd, object path, bint direct)
