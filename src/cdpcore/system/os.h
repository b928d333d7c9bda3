/* Every call that the engine makes to the operating system, in one table.
 *
 * Twins: os_posix.c (real; Linux-only calls compiled out by CDP_PLAIN_POSIX) and os_sim.c (in memory, seeded: loses
 * what was not synced, tears, flips, fills up, cuts the power at any call). The same engine code runs on either.
 *
 * Rules for an implementation
 *  1. Functions return >= 0 for success or a negative errno; none of them sets errno or retries the caller's mistakes.
 *  2. pread and pwrite finish the whole transfer (EINTR and short transfers are handled inside); pread returns fewer
 *     bytes only at the end of the file.
 *  3. Callable from any thread, without the GIL.
 *  4. Paths are NUL-terminated bytes. Offsets and lengths are bytes. */
#ifndef CDP_OS_H
#define CDP_OS_H
#include <stdint.h>
#include "system/io_queue.h"

enum cdp_open_flags {
    CDP_OPEN_RDONLY = 0,
    CDP_OPEN_RDWR = 1,
    CDP_OPEN_CREATE = 2, /* create; fails with -EEXIST where it exists */
    CDP_OPEN_DIRECT = 4, /* bypass the page cache where the file system can; a hint: buffers, offsets and lengths
                            are then multiples of CDP_DIRECT_ALIGN anyway */
    CDP_OPEN_RANDOM = 8, /* no read-ahead */
};
#define CDP_DIRECT_ALIGN 4096u

typedef struct cdp_os {
    void *ctx;
    int (*open)(void *ctx, const char *path, uint32_t flags);              /* file handle */
    int (*close)(void *ctx, int fd);
    int64_t (*pread)(void *ctx, int fd, void *buf, uint64_t n, uint64_t off);
    int64_t (*pread_now)(void *ctx, int fd, void *buf, uint64_t n, uint64_t off); /* as pread; -EAGAIN where some of
                            it has to come from a device, or that is not known. Without such a call: pread */
    int64_t (*pwrite)(void *ctx, int fd, const void *buf, uint64_t n, uint64_t off);
    int (*datasync)(void *ctx, int fd);                          /* data, size and what is needed to read it */
    int (*allocate)(void *ctx, int fd, uint64_t off, uint64_t n);          /* reserve space, extend the size */
    int (*truncate)(void *ctx, int fd, uint64_t size);
    int (*punch)(void *ctx, int fd, uint64_t off, uint64_t n);   /* free space, reads give zeros; -EOPNOTSUPP */
    int64_t (*size)(void *ctx, int fd);                                    /* of a file or a block device */
    uint64_t (*changed_ns)(void *ctx, int fd);                   /* when a file's content was changed last, UTC, ns
                            since 1970; 0: not known, as of a block device */
    int (*is_at)(void *ctx, int fd, const char *path);           /* 1: the path leads to the open file or device; 0: to
                            another one, or nowhere; -errno: not known, as while a network file system is away */
    int (*next_data)(void *ctx, int fd, uint64_t off, uint64_t *start, uint64_t *end); /* 1: found, 0: none left */
    void (*expect)(void *ctx, int fd, uint64_t off, uint64_t n);           /* a hint: the range will be read soon */
    /* Several transfers and syncs of handles of this table in flight at once: system/io_queue.h has their rules. */
    cdp_ioq *(*queue)(void *ctx, uint32_t depth);                          /* NULL: no memory */
    uint32_t (*submit)(void *ctx, cdp_ioq *q, cdp_io *list, uint32_t n);
    uint32_t (*complete)(void *ctx, cdp_ioq *q, cdp_io **done, uint32_t max, int wait);
    int (*queue_fd)(void *ctx, cdp_ioq *q);
    void (*free_queue)(void *ctx, cdp_ioq *q);
    int (*lock)(void *ctx, int fd);                                        /* exclusive, not waiting: -EWOULDBLOCK */
    int (*map)(void *ctx, int fd, uint64_t n, void **addr);                /* read-only, shared */
    int (*unmap)(void *ctx, void *addr, uint64_t n);
    int (*rename)(void *ctx, const char *from, const char *to);            /* replaces `to` atomically */
    int (*unlink)(void *ctx, const char *path);
    int (*mkdir)(void *ctx, const char *path);
    int (*rmdir)(void *ctx, const char *path);
    int (*sync_dir)(void *ctx, const char *path);                          /* makes creates, renames, unlinks durable */
    int64_t (*list_dir)(void *ctx, const char *path, char *buf, uint64_t cap); /* NUL-separated names, sorted; the
                            bytes needed, which may be more than cap: then call again */
    uint64_t (*now_ns)(void *ctx);                                         /* wall clock, UTC, ns since 1970 */
    int (*random)(void *ctx, void *buf, uint64_t n);                       /* n <= 256 */
    void *(*pages)(void *ctx, uint64_t n);                                 /* anonymous zeroed memory, huge pages where
                            there are any, aligned to CDP_DIRECT_ALIGN or better; NULL: none */
    void (*free_pages)(void *ctx, void *addr, uint64_t n);
} cdp_os;

/* The real one; never freed. */
const cdp_os *cdp_os_posix(void);
/* The same, whose queues are threads also where the kernel has io_uring. */
const cdp_os *cdp_os_posix_threads(void);

/* A handle on n zeroed bytes of memory, to be mapped by several processes of this machine. It has no name: it goes with
 * the last handle and mapping. Negative errno where there is none. Not in the table: the engine shares nothing. */
int cdp_os_shared_memory(uint64_t n);

/* The simulated one; see os_sim.h. */
#endif
