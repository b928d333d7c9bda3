/* Condition variables on the monotonic clock. */
#ifndef CDP_THREAD_H
#define CDP_THREAD_H
#include <pthread.h>
#include <stdint.h>
#include <time.h>

static inline void cdp_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}

/* 0: signalled (or spurious); ETIMEDOUT after `ms`. */
static inline int cdp_cond_wait_ms(pthread_cond_t *c, pthread_mutex_t *m, uint32_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return pthread_cond_timedwait(c, m, &t);
}
#endif
