/* Where the time of a volume's requests goes: one histogram a stage, what reads were answered from, and what waits. Any
 * thread, no lock (histogram.h). A volume has one; a front end finds it in its target. docs/architecture.md says what
 * each stage is. */
#ifndef CDP_STAGES_H
#define CDP_STAGES_H
#include <stdint.h>
#include "base/histogram.h"

/* STAGE_NAMES in stages.pyx has the same order. */
enum cdp_stage {
    /* A request, from when it was received whole until its reply was sent. */
    CDP_STAGE_READ,
    CDP_STAGE_WRITE, /* and zeros and trims */
    CDP_STAGE_FLUSH,
    CDP_REQUEST_KINDS, /* end of these */
    /* The connection */
    CDP_STAGE_RECEIVE = CDP_REQUEST_KINDS, /* one receive that found something */
    CDP_STAGE_PARKED,                      /* a request, from when it was parked until its reply was built */
    CDP_STAGE_REPLY,                       /* one send, of all the replies that were gathered */
    /* The log */
    CDP_STAGE_APPEND,    /* a write into the open frame: checksum, wait for the append lock, copy. Sampled */
    CDP_STAGE_PUBLISH,   /* ... and into the index. Sampled */
    CDP_STAGE_LOG_WRITE, /* a frame to its file */
    CDP_STAGE_LOG_SYNC,
    CDP_STAGE_COMMIT, /* one that waits until the log is durable, alone or with others */
    /* Reading */
    CDP_STAGE_LOOK_UP,   /* in the index. Sampled */
    CDP_STAGE_FILE_READ, /* from a file, where that may wait for a device */
    /* Before-images */
    CDP_STAGE_OLD_READ, /* what a change overwrites */
    CDP_STAGE_DISK_WRITE,
    CDP_STAGE_DISK_SYNC,
    CDP_STAGES
};

/* What the bytes of a read came from. */
enum cdp_source {
    CDP_FROM_MEMORY, /* a frame that is still in a slot */
    CDP_FROM_CACHE,  /* a segment file or the protected disk, without waiting for a device */
    CDP_FROM_DEVICE, /* the same, with waiting */
    CDP_FROM_BASE,   /* base.img, or the parent of a writable image, wherever that has it */
    CDP_SOURCES
};

/* One in so many is measured, and counts for all of them. */
#define CDP_STAGE_SAMPLE 16u

/* Longer than this, and 1 ns for each 4 bytes, a read of a file is taken to have waited for a device: memory takes
 * a few microseconds, a fast device 60. */
#define CDP_WAITED_NS 30000u

typedef struct cdp_read_source {
    uint64_t count, bytes;
} cdp_read_source;

typedef struct cdp_stages {
    cdp_histogram stage[CDP_STAGES];
    cdp_read_source source[CDP_SOURCES];
    uint64_t read_bytes, written_bytes; /* of requests */
    uint64_t parked;                    /* requests that wait now */
    uint64_t tick;
} cdp_stages;

static inline void cdp_count(uint64_t *p, uint64_t n) { __atomic_fetch_add(p, n, __ATOMIC_RELAXED); }
static inline void cdp_uncount(uint64_t *p, uint64_t n) { __atomic_fetch_sub(p, n, __ATOMIC_RELAXED); }

static inline void cdp_stage_add(cdp_stages *s, uint32_t stage, uint64_t ns)
{
    cdp_histogram_add(&s->stage[stage], ns, 1);
}

static inline void cdp_stage_add_sampled(cdp_stages *s, uint32_t stage, uint64_t ns)
{
    cdp_histogram_add(&s->stage[stage], ns, CDP_STAGE_SAMPLE);
}

/* Is this one of those that are measured? Two threads at once may count as one. */
static inline int cdp_stage_sampled(cdp_stages *s)
{
    uint64_t tick = __atomic_load_n(&s->tick, __ATOMIC_RELAXED);
    __atomic_store_n(&s->tick, tick + 1, __ATOMIC_RELAXED);
    return tick % CDP_STAGE_SAMPLE == 0;
}

static inline void cdp_source_add(cdp_stages *s, uint32_t source, uint64_t bytes)
{
    cdp_count(&s->source[source].count, 1);
    cdp_count(&s->source[source].bytes, bytes);
}

/* A read of a file that was allowed to wait, and took so long. */
static inline uint32_t cdp_source_of(uint64_t ns, uint64_t bytes)
{
    return ns > CDP_WAITED_NS + bytes / 4 ? CDP_FROM_DEVICE : CDP_FROM_CACHE;
}
#endif
