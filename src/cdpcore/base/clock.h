/* The monotonic clock, and a short sleep: a stepped wall clock must not stretch or cut a wait. Any thread. */
#ifndef CDP_CLOCK_H
#define CDP_CLOCK_H
#include <stdint.h>
#include <time.h>

static inline uint64_t cdp_monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t cdp_monotonic_ms(void) { return cdp_monotonic_ns() / 1000000u; }

/* For waits that are rare and short, where signalling would cost more than it saves. us < 1,000,000. */
static inline void cdp_nap_us(uint32_t us)
{
    struct timespec nap = {0, (long)us * 1000};
    nanosleep(&nap, 0);
}
#endif
