/* A queue of operations on a few threads, which carry them out by the blocking calls of the table: where there is no
 * io_uring.
 *
 * Threads are started when there is more to do than idle threads, up to MAX_THREADS a queue, and end with the queue. A
 * pipe holds one byte while something is to be completed, so that a poll can wait for that and a socket.
 *
 * Threading: one mutex. See io_queue.h. */
#if !defined(_GNU_SOURCE) && defined(__linux__)
#define _GNU_SOURCE 1
#endif
#include "system/io_queue.h"
#include "system/os.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#define MAX_THREADS 8u

typedef struct list {
    cdp_io *first, *last;
} list;

typedef struct threads {
    cdp_ioq q;
    uint32_t depth;
    pid_t process; /* that has the threads */
    int pipe[2];
    pthread_mutex_t mutex; /* guards the rest */
    pthread_cond_t work, finished;
    list todo, done;
    uint32_t in_flight, n_threads, idle;
    int stopping, signalled; /* signalled: the pipe has its byte */
    pthread_t threads[MAX_THREADS];
} threads;

void cdp_io_run(cdp_io *io, uint64_t done)
{
    const cdp_os *os = cdp_os_posix();
    int64_t rc;
    if (io->op == CDP_IO_DATASYNC)
        rc = os->datasync(os->ctx, io->fd);
    else if (io->op == CDP_IO_READ)
        rc = os->pread(os->ctx, io->fd, (char *)io->buf + done, io->n - done, io->off + done);
    else
        rc = os->pwrite(os->ctx, io->fd, (const char *)io->buf + done, io->n - done, io->off + done);
    if (rc >= 0 && io->op == CDP_IO_WRITE && io->durable) {
        int synced = os->datasync(os->ctx, io->fd);
        rc = synced < 0 ? synced : rc;
    }
    io->result = rc < 0 ? rc : rc + (int64_t)(io->op == CDP_IO_DATASYNC ? 0 : done);
}

static void add(list *l, cdp_io *io)
{
    io->next = NULL;
    if (l->last)
        l->last->next = io;
    else
        l->first = io;
    l->last = io;
}

static cdp_io *remove_first(list *l)
{
    cdp_io *io = l->first;
    if (io && !(l->first = io->next))
        l->last = NULL;
    return io;
}

static void *run(void *arg)
{
    threads *t = arg;
    (void)pthread_mutex_lock(&t->mutex);
    for (;;) {
        cdp_io *io = remove_first(&t->todo);
        if (io) {
            (void)pthread_mutex_unlock(&t->mutex);
            cdp_io_run(io, 0);
            (void)pthread_mutex_lock(&t->mutex);
            add(&t->done, io);
            if (!t->signalled)
                t->signalled = write(t->pipe[1], "", 1) == 1;
            (void)pthread_cond_broadcast(&t->finished);
        } else if (t->stopping) {
            break;
        } else {
            t->idle++;
            (void)pthread_cond_wait(&t->work, &t->mutex);
            t->idle--;
        }
    }
    (void)pthread_mutex_unlock(&t->mutex);
    return NULL;
}

/* Signals are for the threads that the program made. */
static int start(threads *t)
{
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&t->threads[t->n_threads], NULL, run, t);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    t->n_threads += rc == 0;
    return rc;
}

static uint32_t threads_submit(cdp_ioq *q, cdp_io *io, uint32_t n)
{
    threads *t = (threads *)q;
    (void)pthread_mutex_lock(&t->mutex);
    if (n > t->depth - t->in_flight)
        n = t->depth - t->in_flight;
    t->in_flight += n;
    for (uint32_t i = 0; i < n; i++) {
        cdp_io *next = io->next;
        add(&t->todo, io);
        io = next;
    }
    for (uint32_t more = n; more > t->idle && t->n_threads < MAX_THREADS && t->n_threads < t->depth; more--)
        if (start(t))
            break; /* the first one was started with the queue */
    (void)pthread_cond_broadcast(&t->work);
    (void)pthread_mutex_unlock(&t->mutex);
    return n;
}

static uint32_t threads_complete(cdp_ioq *q, cdp_io **done, uint32_t max, int wait)
{
    threads *t = (threads *)q;
    uint32_t n = 0;
    char byte;
    if (getpid() != t->process)
        return 0;
    (void)pthread_mutex_lock(&t->mutex);
    while (wait && max && !t->done.first && t->in_flight)
        (void)pthread_cond_wait(&t->finished, &t->mutex);
    while (n < max && t->done.first)
        done[n++] = remove_first(&t->done);
    t->in_flight -= n;
    if (!t->done.first && t->signalled && read(t->pipe[0], &byte, 1) == 1)
        t->signalled = 0;
    if (t->in_flight == 0)
        (void)pthread_cond_broadcast(&t->finished); /* others that wait have nothing to wait for */
    (void)pthread_mutex_unlock(&t->mutex);
    return n;
}

static int threads_fd(cdp_ioq *q) { return ((threads *)q)->pipe[0]; }

static void threads_free(cdp_ioq *q)
{
    threads *t = (threads *)q;
    if (getpid() == t->process) { /* else mutex and conditions are as they were at the fork */
        (void)pthread_mutex_lock(&t->mutex);
        t->stopping = 1;
        (void)pthread_cond_broadcast(&t->work);
        (void)pthread_mutex_unlock(&t->mutex);
        for (uint32_t i = 0; i < t->n_threads; i++)
            (void)pthread_join(t->threads[i], NULL);
        (void)pthread_cond_destroy(&t->work);
        (void)pthread_cond_destroy(&t->finished);
        (void)pthread_mutex_destroy(&t->mutex);
    }
    for (int i = 0; i < 2; i++)
        if (t->pipe[i] >= 0)
            (void)close(t->pipe[i]);
    free(t);
}

static const cdp_ioq_calls threads_calls = {threads_submit, threads_complete, threads_fd, threads_free};

cdp_ioq *cdp_threads_queue(uint32_t depth)
{
    if (depth == 0 || depth > CDP_IO_MAX_DEPTH)
        return NULL;
    threads *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    *t = (threads){.q.calls = &threads_calls, .depth = depth, .process = getpid(), .pipe = {-1, -1}};
    (void)pthread_mutex_init(&t->mutex, NULL);
    (void)pthread_cond_init(&t->work, NULL);
    (void)pthread_cond_init(&t->finished, NULL);
    int rc = pipe(t->pipe);
    if (rc)
        t->pipe[0] = t->pipe[1] = -1;
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = fcntl(t->pipe[i], F_SETFD, FD_CLOEXEC) < 0 || fcntl(t->pipe[i], F_SETFL, O_NONBLOCK) < 0;
    if (rc == 0)
        rc = start(t);
    if (rc == 0)
        return &t->q;
    threads_free(&t->q);
    return NULL;
}
