/* How much memory the logs of a process may have together, and who gives some to whom.
 *
 * A log takes a slot whenever it needs one and the bound allows it. At the bound the log with the most slots that has a
 * written one gives it to a log with fewer, and a log that has as many as any other reuses its own. A log without any
 * gets one in any case, or a log whose device hangs could stop all others: so the bound is limit_bytes and one slot a
 * log.
 *
 * Memory that is new has to be zeroed by the kernel, which takes 0.5 us for 4 KiB, and 10 us where a virtual machine
 * gets it from its host; a write takes one. So what a log takes beyond its share a thread prepares, and only as much as
 * is asked for: one slot at each call of cdp_memory_prepared. It pauses after each slot for CDP_STOCK_PAUSE times as
 * long as it took, so that dear memory takes no more than a ninth of a processor. The thread ends, and gives back what
 * nobody took, when nothing was wanted for CDP_STOCK_IDLE_MS.
 *
 * Locks: cdp_memory.mutex before a log's io lock before cdp_memory.stock_mutex. What says "no lock" takes the first. */
#ifndef CDP_MEMORY_BOUND_H
#define CDP_MEMORY_BOUND_H
#include <sys/types.h>
#include "log/slots.h"

#define CDP_STOCK 8u
#define CDP_STOCK_IDLE_MS 2000u
#define CDP_STOCK_PAUSE 8u
#define CDP_STOCK_CHEAP 4u /* bytes a nanosecond: faster than most devices */

typedef struct cdp_memory {
    pthread_mutex_t mutex;
    uint64_t limit_bytes; /* atomic */
    uint64_t used_bytes;  /* atomic */
    uint64_t most_bytes;  /* the most that used_bytes ever was; atomic */
    cdp_slots *logs;      /* guarded by mutex, as is ... */
    uint64_t round;       /* ... the number of the last search for a log that gives */

    /* guarded by stock_mutex */
    pthread_mutex_t stock_mutex;
    pthread_cond_t stock_wanted;
    pthread_t thread;     /* where has_thread: to be joined ... */
    pid_t pid;            /* ... by this process */
    int has_thread, running, stopping;
    uint32_t wanted;      /* slots to prepare, CDP_STOCK at most */
    uint8_t *stock[CDP_STOCK];
    uint32_t n_stock;
    uint64_t stock_slot_bytes;
    uint64_t slot_ns;     /* what the last one took; 0: there was none yet */
    const cdp_os *stock_os;
} cdp_memory;

void cdp_memory_init(cdp_memory *m, uint64_t limit_bytes);
/* No log uses it any more; stops the thread. */
void cdp_memory_destroy(cdp_memory *m);
/* No lock. From here to leave the log's slots count. At leave nobody uses them any more: they are given back. */
void cdp_memory_join(cdp_memory *m, cdp_slots *t);
void cdp_memory_leave(cdp_memory *m, cdp_slots *t);

/* Memory for one more slot; NULL: the bound is reached, unless it may be `beyond`, or the system has none. Any lock may
 * be held. */
uint8_t *cdp_memory_new(cdp_memory *m, cdp_slots *t, int beyond);
/* The same, prepared; and has one more prepared: for_reads, or where that was fast the last time. NULL: there is none
 * yet. Any lock may be held. */
uint8_t *cdp_memory_prepared(cdp_memory *m, const cdp_slots *t, int for_reads);
/* No lock. The same as cdp_memory_new, from the log with the most of those that have a written slot and at least two
 * slots more than t, which has `has`. NULL also where the bound is not reached. */
uint8_t *cdp_memory_from_others(cdp_memory *m, cdp_slots *t, uint32_t has);
/* Give back what was taken from t's slots; any lock may be held. */
void cdp_memory_free(cdp_memory *m, const cdp_slots *t, uint8_t *mem);
/* More is in use than the bound says, because it was lowered. */
int cdp_memory_is_over(cdp_memory *m);
static inline uint64_t cdp_memory_limit(const cdp_memory *m)
{
    return __atomic_load_n(&m->limit_bytes, __ATOMIC_RELAXED);
}

#endif
