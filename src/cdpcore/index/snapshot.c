#include <stdlib.h>
#include <string.h>
#include "index/snapshot.h"

cdp_run_ref *cdp_run_ref_new(cdp_run *run, uint64_t id)
{
    cdp_run_ref *r = malloc(sizeof *r);
    if (r) {
        r->run = run;
        r->id = id;
        r->refs = 1;
    }
    return r;
}

cdp_run_ref *cdp_run_ref_keep(cdp_run_ref *r)
{
    __atomic_fetch_add(&r->refs, 1, __ATOMIC_RELAXED);
    return r;
}

void cdp_run_ref_drop(cdp_run_ref *r)
{
    if (__atomic_sub_fetch(&r->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        cdp_run_close(r->run);
        free(r);
    }
}

cdp_snapshot *cdp_snapshot_new(const cdp_view *view, cdp_run_ref *const *runs, uint32_t n_runs, uint64_t floor)
{
    size_t pieces = view->n_pieces * sizeof *view->pieces, intervals = view->n_intervals * sizeof *view->intervals;
    size_t freed = view->n_freed * sizeof *view->freed;
    cdp_snapshot *s = n_runs <= CDP_MAX_RUNS ? malloc(sizeof *s + pieces + intervals + freed) : 0;
    if (!s)
        return 0;
    uint8_t *tail = (uint8_t *)(s + 1);
    s->refs = 1;
    s->older = 0;
    s->next = 0;
    s->n_runs = n_runs;
    s->floor = floor;
    s->view = *view;
    s->view.pieces = memcpy(tail, view->pieces, pieces);
    s->view.intervals = memcpy(tail + pieces, view->intervals, intervals);
    s->view.freed = freed ? memcpy(tail + pieces + intervals, view->freed, freed) : 0;
    for (uint32_t i = 0; i < n_runs; i++) {
        s->run_refs[i] = cdp_run_ref_keep(runs[i]);
        s->runs[i] = runs[i]->run;
    }
    return s;
}

void cdp_snapshot_succeed(cdp_snapshot *s, cdp_snapshot *next)
{
    next->older = 1;
    s->next = cdp_snapshot_ref(next);
}

void cdp_snapshot_unref(cdp_snapshot *s)
{
    while (s && __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        cdp_snapshot *next = s->next;
        for (uint32_t i = 0; i < s->n_runs; i++)
            cdp_run_ref_drop(s->run_refs[i]);
        free(s);
        if (next)
            __atomic_store_n(&next->older, 0, __ATOMIC_RELEASE);
        s = next; /* which the freed one kept */
    }
}
