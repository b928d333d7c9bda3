/* Look-up of before-images: what did a range hold at a moment, where every version is what its record overwrote. See
 * index.h for the rule. The mirror of lookup.c: sources are asked oldest first, and the first version after the moment
 * is the answer; asking whether a sector was written at all since a restore goes newest first, as there.
 *
 * Threading: as lookup.c; the caller's lock keeps the trees' writer away. */
#include "index/index_impl.h"

typedef struct source {
    const cdp_tree *tree; /* or */
    const cdp_run *run;
    uint64_t lo, hi;      /* its seqs: lo < seq <= hi */
    cdp_place place;
} source;

typedef struct sources {
    uint32_t n;
    source at[CDP_MAX_TREES + CDP_MAX_RUNS]; /* newest first */
} sources;

static int gather(sources *s, cdp_tree *const *trees, uint32_t n_trees, cdp_run *const *runs, uint32_t n_runs,
                  cdp_status *st)
{
    if (n_trees > CDP_MAX_TREES || n_runs > CDP_MAX_RUNS)
        return cdp_fail(st, CDP_INVALID, 0, 0, "lookup: too many sources");
    s->n = n_trees + n_runs;
    for (uint32_t i = 0; i < n_trees; i++) {
        s->at[i] = (source){.tree = trees[i], .place = CDP_NO_PLACE};
        cdp_tree_seqs(trees[i], &s->at[i].lo, &s->at[i].hi);
    }
    for (uint32_t i = 0; i < n_runs; i++) {
        const struct cdp_run_header *h = cdp_run_header_of(runs[i]);
        s->at[n_trees + i] = (source){.run = runs[i], .place = CDP_NO_PLACE, .lo = h->first_seq - 1,
                                      .hi = h->n_extents > 0 ? h->last_seq : h->first_seq - 1};
    }
    return CDP_OK;
}

/* A version of sector `at` with lo < seq <= hi: the oldest, or the newest. *end comes down to where the answer ends. */
static int ask(sources *s, uint64_t at, uint64_t *end, cdp_interval iv, int want_oldest, cdp_hit *hit, cdp_status *st)
{
    hit->found = 0;
    for (uint32_t i = 0; i < s->n && !hit->found; i++) {
        source *x = &s->at[want_oldest ? s->n - 1 - i : i];
        const uint32_t n = want_oldest ? CDP_OLDEST : 1;
        if (x->lo >= iv.hi || iv.lo >= x->hi)
            continue;
        if (x->tree != NULL)
            cdp_tree_find_near(x->tree, at, &iv, n, hit, &x->place);
        else if (cdp_run_find_near(x->run, at, &iv, n, hit, &x->place, st) != CDP_OK)
            return CDP_CORRUPT;
        if (hit->until < *end)
            *end = hit->until;
    }
    return CDP_OK;
}

static const cdp_view_piece *piece_of(const cdp_view *view, uint64_t at)
{
    const cdp_view_piece *p = view->pieces;
    for (uint32_t n = view->n_pieces; n > 1;) {
        uint32_t half = n / 2;
        p += p[half].start <= at ? half : 0;
        n -= half;
    }
    return view->n_pieces > 0 && at >= p->start && at < p->end ? p : NULL;
}

/* The oldest version after `seq`, those left out that were freed. */
static int content(sources *s, const cdp_view *view, const cdp_view_piece *p, uint64_t at, uint64_t *end, uint64_t seq,
                   uint64_t *loc, cdp_status *st)
{
    const cdp_interval *freed = view->freed + p->first_freed;
    cdp_hit hit;
    *loc = CDP_LOC_BASE;
    for (uint32_t i = 0;;) {
        if (seq == UINT64_MAX)
            return CDP_OK;
        if (ask(s, at, end, (cdp_interval){seq, UINT64_MAX}, 1, &hit, st) != CDP_OK)
            return CDP_CORRUPT;
        if (!hit.found)
            return CDP_OK;
        while (i < p->n_freed && freed[i].hi < hit.seq)
            i++;
        if (i == p->n_freed || hit.seq <= freed[i].lo) {
            *loc = hit.loc;
            return CDP_OK;
        }
        seq = freed[i].hi;
    }
}

static int next_piece(sources *s, const cdp_view *view, uint64_t at, uint64_t *end, uint64_t *loc, cdp_status *st)
{
    const cdp_view_piece *p = piece_of(view, at);
    const cdp_interval *iv;
    cdp_hit hit;
    uint32_t k;
    if (p == NULL || p->count == 0)
        return cdp_fail(st, CDP_INVALID, 0, at, "lookup: sector outside the view");
    if (p->end < *end)
        *end = p->end;
    iv = view->intervals + p->first;
    for (k = 0; k + 1 < p->count; k++) {
        if (ask(s, at, end, iv[k], 0, &hit, st) != CDP_OK)
            return CDP_CORRUPT;
        if (hit.found)
            break;
    }
    return content(s, view, p, at, end, iv[k].hi, loc, st);
}

/* Appends [start, end) to the pieces, or to the last of them; 0: no room. */
static int append(cdp_piece *out, uint64_t cap, uint64_t *n, uint64_t start, uint64_t end, uint64_t loc, int counts)
{
    if (*n > 0) {
        cdp_piece *last = &out[*n - 1];
        uint64_t next = counts ? cdp_loc_add(last->loc, start - last->start) : last->loc;
        if (last->end == start && next == loc) {
            last->end = end;
            return 1;
        }
    }
    if (*n == cap)
        return 0;
    out[(*n)++] = (cdp_piece){start, end, loc};
    return 1;
}

int64_t cdp_lookup_before(const cdp_view *view, cdp_tree *const *trees, uint32_t n_trees, cdp_run *const *runs,
                          uint32_t n_runs, const cdp_piece *in, uint64_t n_in, cdp_piece *out, uint64_t cap,
                          uint64_t *steps, uint64_t *reached, cdp_status *st)
{
    uint64_t n = 0;
    sources s;
    int rc = gather(&s, trees, n_trees, runs, n_runs, st);
    *reached = n_in > 0 ? in[0].start : 0;
    for (uint64_t i = 0; rc == CDP_OK && i < n_in; i++) {
        for (uint64_t at = in[i].start; at < in[i].end;) {
            uint64_t end = in[i].end, loc = cdp_loc_add(in[i].loc, at - in[i].start);
            if (in[i].loc == CDP_LOC_BASE) {
                if (!cdp_take_step(steps))
                    return (int64_t)n;
                if ((rc = next_piece(&s, view, at, &end, &loc, st)) != CDP_OK)
                    break;
            }
            if (!append(out, cap, &n, at, end, loc, 1))
                return (int64_t)n;
            *reached = at = end;
        }
    }
    return rc == CDP_OK ? (int64_t)n : -rc;
}

int64_t cdp_lookup_seqs(cdp_tree *const *trees, uint32_t n_trees, uint64_t after, uint64_t start, uint64_t end,
                        cdp_piece *out, uint64_t cap, uint64_t *steps, uint64_t *reached, cdp_status *st)
{
    uint64_t n = 0;
    sources s;
    cdp_hit hit;
    int rc = gather(&s, trees, n_trees, NULL, 0, st);
    for (*reached = start; rc == CDP_OK && *reached < end && cdp_take_step(steps);) {
        uint64_t until = end;
        rc = ask(&s, *reached, &until, (cdp_interval){after, UINT64_MAX}, 0, &hit, st);
        if (rc != CDP_OK || !append(out, cap, &n, *reached, until, hit.found ? hit.seq : 0, 0))
            break;
        *reached = until;
    }
    return rc == CDP_OK ? (int64_t)n : -rc;
}
