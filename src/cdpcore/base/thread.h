/* Condition variables on the monotonic clock: a stepped wall clock must not stretch or cut a wait. */
#ifndef CDP_THREAD_H
#define CDP_THREAD_H
#include <pthread.h>
#include <stdint.h>
#include <time.h>

static inline uint64_t cdp_monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static inline void cdp_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}

static inline uint64_t cdp_monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
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

/* For waits that are rare and short, where nobody should have to signal. */
static inline void cdp_nap_us(uint32_t us)
{
    struct timespec nap = {0, (long)us * 1000}; /* us < 1,000,000 */
    nanosleep(&nap, 0);
}
#endif
