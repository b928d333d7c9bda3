/* A histogram of times that any number of threads add to, without a lock: relaxed atomic counts, so that what a reader
 * sees is of no single moment, but every count gets there. 12 % wide buckets from 1 ns to 18 minutes, and one for all
 * that is longer: 2.4 KiB. */
#ifndef CDP_HISTOGRAM_H
#define CDP_HISTOGRAM_H
#include <stdint.h>
#include "base/latency.h"

#define CDP_HISTOGRAM_BITS 3u
#define CDP_HISTOGRAM_OCTAVES 40u
#define CDP_HISTOGRAM_BUCKETS (((CDP_HISTOGRAM_OCTAVES - CDP_HISTOGRAM_BITS + 1) << CDP_HISTOGRAM_BITS) + 1)

typedef struct cdp_histogram {
    uint64_t total_ns; /* of all times; modulo 2^64: 584 years */
    uint64_t max_ns;
    uint64_t counts[CDP_HISTOGRAM_BUCKETS];
} cdp_histogram;

static inline uint32_t cdp_histogram_bucket(uint64_t ns)
{
    uint32_t bucket = cdp_bucket_of(ns, CDP_HISTOGRAM_BITS);
    return bucket < CDP_HISTOGRAM_BUCKETS ? bucket : CDP_HISTOGRAM_BUCKETS - 1;
}

static inline uint64_t cdp_histogram_upper(uint32_t bucket)
{
    return bucket < CDP_HISTOGRAM_BUCKETS - 1 ? cdp_bucket_upper(bucket, CDP_HISTOGRAM_BITS) : UINT64_MAX;
}

/* n events that took ns each; where one of n is measured, it stands for all of them. */
static inline void cdp_histogram_add(cdp_histogram *h, uint64_t ns, uint64_t n)
{
    uint64_t max = __atomic_load_n(&h->max_ns, __ATOMIC_RELAXED);
    __atomic_fetch_add(&h->counts[cdp_histogram_bucket(ns)], n, __ATOMIC_RELAXED);
    __atomic_fetch_add(&h->total_ns, ns * n, __ATOMIC_RELAXED);
    while (ns > max && !__atomic_compare_exchange_n(&h->max_ns, &max, ns, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

/* Both may be in use by others. */
static inline void cdp_histogram_copy(const cdp_histogram *from, cdp_histogram *to)
{
    for (uint32_t i = 0; i < CDP_HISTOGRAM_BUCKETS; i++)
        to->counts[i] = __atomic_load_n(&from->counts[i], __ATOMIC_RELAXED);
    to->total_ns = __atomic_load_n(&from->total_ns, __ATOMIC_RELAXED);
    to->max_ns = __atomic_load_n(&from->max_ns, __ATOMIC_RELAXED);
}
#endif
