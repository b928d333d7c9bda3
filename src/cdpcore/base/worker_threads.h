/* Threads for calls that wait for a device, so that who made them can go on meanwhile: one pool a process, that of the
 * module cdpcore.base.workers, because every extension module has a copy of the C code.
 *
 * A thread is started when there are more jobs than idle threads, up to CDP_WORKERS_MAX, and ends when it has been idle
 * for CDP_WORKERS_IDLE_MS: a process that waits for nothing has none. Any thread; no GIL. */
#ifndef CDP_WORKER_THREADS_H
#define CDP_WORKER_THREADS_H

#define CDP_WORKERS_MAX 64u
#define CDP_WORKERS_IDLE_MS 2000u

typedef struct cdp_job {
    struct cdp_job *next;           /* the pool's until run() is called, the caller's then */
    void (*run)(struct cdp_job *job);
} cdp_job;

/* run() is called on another thread: the oldest job first. Where there is no thread and none can be started, on this
 * one, before cdp_work returns. */
void cdp_work(cdp_job *job);

/* Finished jobs: a stack that any thread pushes on, and one empties. */
static inline void cdp_job_push(cdp_job **stack, cdp_job *job)
{
    job->next = __atomic_load_n(stack, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(stack, &job->next, job, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
}
static inline int cdp_job_any(cdp_job **stack) { return __atomic_load_n(stack, __ATOMIC_SEQ_CST) != 0; }
static inline cdp_job *cdp_job_take_all(cdp_job **stack)
{
    return cdp_job_any(stack) ? __atomic_exchange_n(stack, (cdp_job *)0, __ATOMIC_ACQ_REL) : 0;
}

/* Threads that there are, those of them that carry out a job, and jobs that none of them has begun. */
void cdp_work_counters(unsigned *threads, unsigned *busy, unsigned *jobs);

#endif
