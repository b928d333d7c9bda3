/* Times in buckets that grow with them: 2^bits to an octave, so that a bucket's upper end is at most 1 part in 2^bits
 * above what is in it. Two widths: `latency` (3 %), where one thread measures every request; histogram.h (12 %), where
 * many threads share counts that have to be small. Pure. */
#ifndef CDP_LATENCY_H
#define CDP_LATENCY_H
#include <stdint.h>

static inline uint32_t cdp_bucket_of(uint64_t ns, uint32_t bits)
{
    uint32_t octave;
    if (ns < (uint64_t)1 << bits)
        return (uint32_t)ns;
    octave = 63u - (uint32_t)__builtin_clzll(ns);
    return ((octave - bits + 1) << bits) + (uint32_t)((ns >> (octave - bits)) & (((uint64_t)1 << bits) - 1));
}

/* The largest time of a bucket. */
static inline uint64_t cdp_bucket_upper(uint32_t bucket, uint32_t bits)
{
    uint64_t in_octave = (uint64_t)1 << bits;
    if (bucket < in_octave)
        return bucket;
    return ((in_octave + (bucket & (in_octave - 1)) + 1) << ((bucket >> bits) - 1)) - 1;
}

#define CDP_LATENCY_BITS 5u
#define CDP_LATENCY_BUCKETS 1920u /* 32 exact ones, and 32 for each of the octaves 5..63: 1 ns to 584 years, 15 KiB */

static inline uint32_t cdp_latency_bucket(uint64_t ns) { return cdp_bucket_of(ns, CDP_LATENCY_BITS); }
static inline uint64_t cdp_latency_upper(uint32_t bucket) { return cdp_bucket_upper(bucket, CDP_LATENCY_BITS); }

#endif
