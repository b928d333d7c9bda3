/* Latencies counted in buckets of 1/32 octave (3 % wide), from 1 ns to 584 years, in 15 KiB. Pure; a histogram has one
 * thread. */
#ifndef CDP_LATENCY_H
#define CDP_LATENCY_H
#include <stdint.h>

#define CDP_LATENCY_BUCKETS 1920u /* 32 exact ones, and 32 for each of the octaves 5..63 */

static inline uint32_t cdp_latency_bucket(uint64_t ns)
{
    uint32_t octave;
    if (ns < 32)
        return (uint32_t)ns;
    octave = 63u - (uint32_t)__builtin_clzll(ns);
    return (octave - 4) * 32 + (uint32_t)((ns >> (octave - 5)) & 31);
}

/* The largest time of a bucket. */
static inline uint64_t cdp_latency_upper(uint32_t bucket)
{
    if (bucket < 32)
        return bucket;
    return ((uint64_t)(32 + bucket % 32 + 1) << (bucket / 32 - 1)) - 1;
}

#endif
