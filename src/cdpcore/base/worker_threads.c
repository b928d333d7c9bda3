/* See worker_threads.h. One mutex: a job costs some microseconds of hand-over anyway, and a device far more. */
#include "base/worker_threads.h"
#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>

#define STACK_BYTES (512u << 10) /* the deepest call needs some 40 KiB */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards the rest */
static pthread_cond_t work;
static cdp_job *first, *last;
static unsigned n_threads, idle, n_jobs;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before_fork(void) { (void)pthread_mutex_lock(&mutex); }
static void after_fork(void) { (void)pthread_mutex_unlock(&mutex); }

/* The threads, and those that wait for the jobs, are the parent's. */
static void in_child(void)
{
    n_threads = idle = n_jobs = 0;
    first = last = NULL;
    cdp_cond_init(&work);
    (void)pthread_mutex_unlock(&mutex);
}

static void prepare(void)
{
    cdp_cond_init(&work);
    (void)pthread_atfork(before_fork, after_fork, in_child);
}

static void *run(void *arg)
{
    (void)arg;
    int late = 0;
    (void)pthread_mutex_lock(&mutex);
    for (;;) {
        cdp_job *job = first;
        if (job) {
            first = job->next;
            n_jobs--;
            (void)pthread_mutex_unlock(&mutex);
            job->run(job);
            (void)pthread_mutex_lock(&mutex);
            late = 0;
        } else if (late) {
            break;
        } else {
            idle++;
            late = cdp_cond_wait_ms(&work, &mutex, CDP_WORKERS_IDLE_MS) == ETIMEDOUT;
            idle--;
        }
    }
    n_threads--;
    (void)pthread_mutex_unlock(&mutex);
    return NULL;
}

/* Signals are for the threads that the program made. */
static int start(void)
{
    sigset_t all, old;
    pthread_attr_t a;
    pthread_t t;
    (void)pthread_attr_init(&a);
    (void)pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&a, STACK_BYTES);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&t, &a, run, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&a);
    n_threads += rc == 0;
    return rc;
}

void cdp_work(cdp_job *job)
{
    (void)pthread_once(&once, prepare);
    (void)pthread_mutex_lock(&mutex);
    if (n_jobs >= idle && n_threads < CDP_WORKERS_MAX && start() && n_threads == 0) {
        (void)pthread_mutex_unlock(&mutex);
        job->run(job);
        return;
    }
    job->next = NULL;
    if (n_jobs++)
        last->next = job;
    else
        first = job;
    last = job;
    (void)pthread_cond_signal(&work);
    (void)pthread_mutex_unlock(&mutex);
}

void cdp_work_counters(unsigned *threads, unsigned *busy, unsigned *jobs)
{
    (void)pthread_mutex_lock(&mutex);
    *threads = n_threads;
    *busy = n_threads - idle;
    *jobs = n_jobs;
    (void)pthread_mutex_unlock(&mutex);
}
