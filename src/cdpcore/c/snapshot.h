/* What a reader needs from the index once it has let go of the volume's lock: the lineage and the runs, as they were
 * together at one moment. Immutable, counted; a restore, a seal or a merge installs the next one.
 *
 * Threading: cdp_snapshot_ref under the volume's index lock (the current one cannot vanish there); unref anywhere. */
#ifndef CDP_SNAPSHOT_H
#define CDP_SNAPSHOT_H
#include "index.h"

typedef struct cdp_run_ref {
    cdp_run *run;
    uint64_t id;
    int32_t refs;
} cdp_run_ref;

typedef struct cdp_snapshot {
    int32_t refs;
    uint32_t n_runs;
    cdp_view view;
    cdp_run *runs[CDP_MAX_RUNS];        /* newest first */
    cdp_run_ref *run_refs[CDP_MAX_RUNS];
} cdp_snapshot;

/* Takes the run over: the last unref closes it. */
cdp_run_ref *cdp_run_ref_new(cdp_run *run, uint64_t id);
cdp_run_ref *cdp_run_ref_keep(cdp_run_ref *r);
void cdp_run_ref_drop(cdp_run_ref *r);

/* A copy of the view's arrays and a reference to each run; refs = 1. NULL: no memory. */
cdp_snapshot *cdp_snapshot_new(const cdp_view *view, cdp_run_ref *const *runs, uint32_t n_runs);
static inline cdp_snapshot *cdp_snapshot_ref(cdp_snapshot *s)
{
    __atomic_fetch_add(&s->refs, 1, __ATOMIC_RELAXED);
    return s;
}
void cdp_snapshot_unref(cdp_snapshot *s);

#endif
