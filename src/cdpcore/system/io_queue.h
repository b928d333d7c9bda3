/* Operations on files that are in flight at the same time: submitted, and completed in any order.
 *
 * Twins: io_uring.c (Linux, where the kernel allows it: containers often forbid it), io_threads.c (any POSIX system),
 * and the simulated one (os_sim_io.c: completes in seeded order, and a power cut finds several in flight). They are
 * reached through the OS table (system/os.h); nothing above it knows which one it has.
 *
 * Rules
 *  1. An operation and its buffer are the queue's from submit until complete returns it; its result is what the table's
 *     blocking call would have returned: the whole transfer, or a negative errno.
 *  2. There is no order between operations in flight. A sync covers what had completed when it was submitted, and no
 *     more.
 *  3. Any thread may submit; one thread at a time completes. free_queue: nothing is in flight.
 *  4. submit takes operations from the list's first on and returns how many: fewer than n where more than the depth
 *     would be in flight, or the kernel has no memory for more. Those that it did not take are the caller's still.
 *  5. complete gives at least one operation where `wait` is set and something is in flight; without `wait` it may give
 *     none. It never waits for more. queue_fd can be polled for POLLIN: complete would give something; -1 where there
 *     is none.
 *  6. In the child of a fork nothing of the parent's is completed: complete gives 0, and free_queue frees.
 *  7. A write with `durable` completes as if a datasync of its own range had followed it. */
#ifndef CDP_IO_QUEUE_H
#define CDP_IO_QUEUE_H
#include <stdint.h>

#define CDP_IO_MAX_DEPTH 4096u

enum cdp_io_op { CDP_IO_READ = 1, CDP_IO_WRITE = 2, CDP_IO_DATASYNC = 3 };

typedef struct cdp_io {
    struct cdp_io *next; /* of a list that is submitted; the queue's while in flight */
    uint32_t op;         /* enum cdp_io_op */
    uint32_t durable;    /* of a write: see rule 7 */
    int fd;
    void *buf;
    uint64_t n, off;     /* bytes */
    int64_t result;
    void *owner;         /* the caller's */
} cdp_io;

typedef struct cdp_ioq cdp_ioq;

/* What the twins of a real machine are made of: the first field of each. */
typedef struct cdp_ioq_calls {
    uint32_t (*submit)(cdp_ioq *q, cdp_io *list, uint32_t n);
    uint32_t (*complete)(cdp_ioq *q, cdp_io **done, uint32_t max, int wait);
    int (*fd)(cdp_ioq *q);
    void (*free)(cdp_ioq *q);
} cdp_ioq_calls;

struct cdp_ioq {
    const cdp_ioq_calls *calls;
};

/* A queue for up to `depth` operations in flight; NULL: no memory, or the kernel refuses. */
cdp_ioq *cdp_uring_queue(uint32_t depth);
cdp_ioq *cdp_threads_queue(uint32_t depth);

/* Carry the operation out on the spot, from its first `done` bytes on; sets result. */
void cdp_io_run(cdp_io *io, uint64_t done);

#endif
