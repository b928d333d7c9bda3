/* A queue of operations on io_uring (Linux 5.6 or later), by its system calls: three of them, and two rings in memory.
 *
 * What the kernel leaves unfinished (a short transfer, EINTR, a direct handle that turns out not to be one) is finished
 * by the blocking calls of the table in finish(): rare, and their rules then hold here too.
 *
 * Threading: a mutex for submitting; completing is one thread's at a time, and waits without it. See io_queue.h. */
#if !defined(_GNU_SOURCE) && defined(__linux__)
#define _GNU_SOURCE 1
#endif
#include "system/io_queue.h"

#include <stddef.h>

#if defined(__linux__) && !defined(CDP_PLAIN_POSIX) && __has_include(<linux/io_uring.h>)
#include <errno.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#if defined(__NR_io_uring_setup) && defined(IORING_FEAT_RW_CUR_POS)
#define HAVE_URING 1
#endif
#endif

#ifdef HAVE_URING

#define MAX_TRANSFER (1u << 30)
#define MAX_TRIES 1000u

typedef struct uring {
    cdp_ioq q;
    int fd;
    pid_t process; /* that made it */
    uint32_t depth, in_flight; /* in_flight: atomic */
    pthread_mutex_t submitting;
    /* guarded by submitting */
    uint32_t *sq_tail, *sq_array, sq_mask;
    struct io_uring_sqe *sqes;
    /* of the thread that completes */
    uint32_t *cq_head, *cq_tail, cq_mask;
    struct io_uring_cqe *cqes;
    /* constant */
    void *rings;
    size_t rings_bytes, sqes_bytes;
} uring;

static int enter(uring *u, uint32_t submit, uint32_t wait)
{
    long rc = syscall(__NR_io_uring_enter, u->fd, submit, wait, wait ? IORING_ENTER_GETEVENTS : 0, NULL, 0);
    return rc < 0 ? -errno : (int)rc;
}

static void fill(struct io_uring_sqe *e, const cdp_io *io)
{
    memset(e, 0, sizeof *e);
    e->fd = io->fd;
    e->user_data = (uintptr_t)io;
    if (io->op == CDP_IO_DATASYNC) {
        e->opcode = IORING_OP_FSYNC;
        e->fsync_flags = IORING_FSYNC_DATASYNC;
        return;
    }
    e->opcode = io->op == CDP_IO_READ ? IORING_OP_READ : IORING_OP_WRITE;
    e->addr = (uintptr_t)io->buf;
    e->len = io->n < MAX_TRANSFER ? (uint32_t)io->n : MAX_TRANSFER;
    e->off = io->off;
    e->rw_flags = io->op == CDP_IO_WRITE && io->durable ? RWF_DSYNC : 0;
}

static uint32_t uring_submit(cdp_ioq *q, cdp_io *list, uint32_t n)
{
    uring *u = (uring *)q;
    uint32_t before = __atomic_load_n(&u->in_flight, __ATOMIC_RELAXED), take, taken = 0;
    do
        take = n < u->depth - before ? n : u->depth - before;
    while (!__atomic_compare_exchange_n(&u->in_flight, &before, before + take, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    (void)pthread_mutex_lock(&u->submitting);
    /* The kernel takes entries inside enter() only, and all of them but for an error: the ring is empty here. */
    uint32_t tail = *u->sq_tail;
    for (uint32_t i = 0; i < take; i++, list = list->next) {
        uint32_t at = (tail + i) & u->sq_mask;
        fill(&u->sqes[at], list);
        u->sq_array[at] = at;
    }
    __atomic_store_n(u->sq_tail, tail + take, __ATOMIC_RELEASE);
    for (uint32_t tries = 0; taken < take && tries < MAX_TRIES; tries++) {
        int rc = enter(u, take - taken, 0);
        if (rc > 0)
            taken += (uint32_t)rc;
        else if (rc == -EAGAIN || rc == -EBUSY) /* memory, or completions that nobody has taken */
            (void)sched_yield();
        else if (rc < 0 && rc != -EINTR)
            break;
    }
    __atomic_store_n(u->sq_tail, tail + taken, __ATOMIC_RELEASE);
    (void)pthread_mutex_unlock(&u->submitting);
    if (taken < take)
        __atomic_fetch_sub(&u->in_flight, take - taken, __ATOMIC_ACQ_REL);
    return taken;
}

/* ECANCELED: the thread that submitted it ended before the kernel had begun with it. */
static int is_final(const cdp_io *io, int32_t res)
{
    if (res == -EINTR || res == -EAGAIN || res == -ECANCELED)
        return 0;
    return io->op == CDP_IO_DATASYNC || (res < 0 ? res != -EINVAL : (uint64_t)res == io->n);
}

static void finish(cdp_io *io, int32_t res)
{
    if (is_final(io, res))
        io->result = res;
    else
        cdp_io_run(io, res > 0 ? (uint64_t)res : 0);
}

static uint32_t take(uring *u, cdp_io **done, uint32_t max)
{
    uint32_t n = 0;
    int32_t res[64];
    if (max > 64)
        max = 64;
    uint32_t head = *u->cq_head, tail = __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);
    for (; n < max && head != tail; head++, n++) {
        const struct io_uring_cqe *e = &u->cqes[head & u->cq_mask];
        done[n] = (cdp_io *)(uintptr_t)e->user_data;
        res[n] = e->res;
    }
    __atomic_store_n(u->cq_head, head, __ATOMIC_RELEASE);
    /* What submit() did with an operation is before its completion by way of the kernel, which the memory model does
     * not see: this says so. */
    (void)__atomic_load_n(u->sq_tail, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < n; i++)
        finish(done[i], res[i]);
    if (n)
        __atomic_fetch_sub(&u->in_flight, n, __ATOMIC_ACQ_REL);
    return n;
}

static uint32_t uring_complete(cdp_ioq *q, cdp_io **done, uint32_t max, int wait)
{
    uring *u = (uring *)q;
    if (getpid() != u->process)
        return 0;
    for (;;) {
        uint32_t n = take(u, done, max);
        if (n || !wait || !__atomic_load_n(&u->in_flight, __ATOMIC_ACQUIRE))
            return n;
        (void)enter(u, 0, 1); /* EINTR: look again */
    }
}

static int uring_fd(cdp_ioq *q) { return ((uring *)q)->fd; }

static void uring_free(cdp_ioq *q)
{
    uring *u = (uring *)q;
    if (u->sqes)
        (void)munmap(u->sqes, u->sqes_bytes);
    if (u->rings)
        (void)munmap(u->rings, u->rings_bytes);
    if (u->fd >= 0)
        (void)close(u->fd);
    (void)pthread_mutex_destroy(&u->submitting);
    free(u);
}

static const cdp_ioq_calls uring_calls = {uring_submit, uring_complete, uring_fd, uring_free};

cdp_ioq *cdp_uring_queue(uint32_t depth)
{
    if (depth == 0 || depth > CDP_IO_MAX_DEPTH)
        return NULL;
    uring *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    *u = (uring){.q.calls = &uring_calls, .fd = -1, .process = getpid(), .depth = depth};
    (void)pthread_mutex_init(&u->submitting, NULL);
    struct io_uring_params p = {0};
    u->fd = (int)syscall(__NR_io_uring_setup, depth, &p);
    /* Without these the rings are older than READ and WRITE, or may drop completions. */
    const uint32_t needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_RW_CUR_POS;
    if (u->fd < 0 || (p.features & needed) != needed)
        goto failed;
    size_t sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t), cq = p.cq_off.cqes + p.cq_entries * sizeof *u->cqes;
    u->rings_bytes = sq > cq ? sq : cq;
    u->sqes_bytes = p.sq_entries * sizeof *u->sqes;
    char *rings = mmap(NULL, u->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd,
                       IORING_OFF_SQ_RING);
    if (rings == MAP_FAILED)
        goto failed;
    u->rings = rings;
    void *sqes = mmap(NULL, u->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQES);
    if (sqes == MAP_FAILED)
        goto failed;
    u->sqes = sqes;
    u->sq_tail = (uint32_t *)(rings + p.sq_off.tail);
    u->sq_array = (uint32_t *)(rings + p.sq_off.array);
    u->sq_mask = p.sq_entries - 1;
    u->cq_head = (uint32_t *)(rings + p.cq_off.head);
    u->cq_tail = (uint32_t *)(rings + p.cq_off.tail);
    u->cq_mask = p.cq_entries - 1;
    u->cqes = (struct io_uring_cqe *)(rings + p.cq_off.cqes);
    return &u->q;
failed:
    uring_free(&u->q);
    return NULL;
}

#else

cdp_ioq *cdp_uring_queue(uint32_t depth)
{
    (void)depth;
    return NULL;
}

#endif
