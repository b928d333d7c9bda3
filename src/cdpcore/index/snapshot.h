/* What a reader needs from the index once it has released the index lock: the lineage and the runs, as they were
 * together at one moment. Immutable, counted; a restore, a seal or a merge installs the next one.
 *
 * A reader keeps its snapshot until it has read the data that the snapshot led it to, and a snapshot keeps its
 * successor: so once nothing older than a snapshot lives, no reader sees what only an older one shows, and it may be
 * freed.
 *
 * Threading: cdp_snapshot_ref under the volume's index lock (the current one cannot vanish there); unref anywhere. */
#ifndef CDP_SNAPSHOT_H
#define CDP_SNAPSHOT_H
#include "index/index.h"

typedef struct cdp_run_ref {
    cdp_run *run;
    uint64_t id;
    int32_t refs;
} cdp_run_ref;

typedef struct cdp_snapshot {
    int32_t refs;
    int32_t older; /* 1: its predecessor lives */
    uint32_t n_runs;
    struct cdp_snapshot *next; /* its successor, kept; NULL: it is the current one */
    uint64_t floor; /* versions of seqs up to here count no more: the base has them */
    cdp_view view;
    cdp_run *runs[CDP_MAX_RUNS];        /* newest first */
    cdp_run_ref *run_refs[CDP_MAX_RUNS];
} cdp_snapshot;

/* Takes the run over: the last unref closes it. */
cdp_run_ref *cdp_run_ref_new(cdp_run *run, uint64_t id);
cdp_run_ref *cdp_run_ref_keep(cdp_run_ref *r);
void cdp_run_ref_drop(cdp_run_ref *r);

/* A copy of the view's arrays and a reference to each run; refs = 1. NULL: no memory. */
cdp_snapshot *cdp_snapshot_new(const cdp_view *view, cdp_run_ref *const *runs, uint32_t n_runs, uint64_t floor);
static inline cdp_snapshot *cdp_snapshot_ref(cdp_snapshot *s)
{
    __atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
    return s;
}
void cdp_snapshot_unref(cdp_snapshot *s);
/* `next` takes over from `s`. Under the index lock, once for each. */
void cdp_snapshot_succeed(cdp_snapshot *s, cdp_snapshot *next);
/* Is every older snapshot gone? Any thread that has a reference to `s`. */
static inline int cdp_snapshot_is_oldest(const cdp_snapshot *s)
{
    return !__atomic_load_n(&s->older, __ATOMIC_ACQUIRE);
}

#endif
