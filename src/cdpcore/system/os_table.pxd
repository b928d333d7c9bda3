"""Every call that the core makes to the operating system (system/os.h)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from cdpcore.system.io_queue cimport cdp_io, cdp_ioq


cdef extern from "system/os.h" nogil:
    enum:
        CDP_OPEN_RDONLY
        CDP_OPEN_RDWR
        CDP_OPEN_CREATE
        CDP_OPEN_DIRECT
        CDP_OPEN_RANDOM
        CDP_DIRECT_ALIGN

    ctypedef struct cdp_os:
        void *ctx
        int (*open)(void *ctx, const char *path, uint32_t flags) noexcept nogil
        int (*close)(void *ctx, int fd) noexcept nogil
        int64_t (*pread)(void *ctx, int fd, void *buf, uint64_t n, uint64_t off) noexcept nogil
        int64_t (*pread_now)(void *ctx, int fd, void *buf, uint64_t n, uint64_t off) noexcept nogil
        int64_t (*pwrite)(void *ctx, int fd, const void *buf, uint64_t n, uint64_t off) noexcept nogil
        int (*datasync)(void *ctx, int fd) noexcept nogil
        int (*allocate)(void *ctx, int fd, uint64_t off, uint64_t n) noexcept nogil
        int (*truncate)(void *ctx, int fd, uint64_t size) noexcept nogil
        int (*punch)(void *ctx, int fd, uint64_t off, uint64_t n) noexcept nogil
        int64_t (*size)(void *ctx, int fd) noexcept nogil
        uint64_t (*changed_ns)(void *ctx, int fd) noexcept nogil
        int (*is_at)(void *ctx, int fd, const char *path) noexcept nogil
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

    const cdp_os *cdp_os_posix()
    const cdp_os *cdp_os_posix_threads()
    int cdp_os_shared_memory(uint64_t n)
