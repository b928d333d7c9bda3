/* Which pieces make up a range at a view: asks trees and runs newest first and stitches their answers. See index.h.
 *
 * Every source says up to where its answer holds, so a piece ends where the first of the answers that made it ends, and
 * a source is not asked again before its own answer has run out. A source none of whose seqs is visible is not asked
 * at all: reading an old point costs nothing for the runs written since. */
#include "index/index_impl.h"

/* One source and its last answer, which holds for sectors [from, until) of the current view piece. */
typedef struct source {
    const cdp_tree *tree; /* or */
    const cdp_run *run;
    uint64_t lo, hi;      /* its seqs: lo < seq <= hi */
    uint64_t from, until;
    uint64_t loc;         /* of `from` */
    cdp_place place;
    int found;
} source;

typedef struct cursor {
    const cdp_view *view;
    const cdp_view_piece *piece; /* of the view, around the current sector */
    uint64_t floor;              /* versions up to here are the base's by now */
    uint32_t n_sources;
    source sources[CDP_MAX_TREES + CDP_MAX_RUNS];
} cursor;

static int start_cursor(cursor *c, const cdp_view *view, cdp_tree *const *trees, uint32_t n_trees, cdp_run *const *runs,
                        uint32_t n_runs, cdp_status *st)
{
    if (n_trees > CDP_MAX_TREES || n_runs > CDP_MAX_RUNS)
        return cdp_fail(st, CDP_INVALID, 0, 0, "lookup: too many sources");
    c->view = view;
    c->piece = NULL;
    c->floor = 0;
    c->n_sources = n_trees + n_runs;
    for (uint32_t i = 0; i < n_trees; i++) {
        source *s = &c->sources[i];
        s->tree = trees[i];
        s->run = NULL;
        s->place = CDP_NO_PLACE;
        cdp_tree_seqs(s->tree, &s->lo, &s->hi);
    }
    for (uint32_t i = 0; i < n_runs; i++) {
        source *s = &c->sources[n_trees + i];
        const struct cdp_run_header *h = cdp_run_header_of(runs[i]);
        s->tree = NULL;
        s->run = runs[i];
        s->place = CDP_NO_PLACE;
        s->lo = h->first_seq - 1;
        s->hi = h->n_extents > 0 ? h->last_seq : s->lo;
    }
    return CDP_OK;
}

/* Goes to the view piece that holds `at`; answers given for the one before are void. */
static int enter_piece(cursor *c, uint64_t at, cdp_status *st)
{
    const cdp_view_piece *p = c->view->pieces;
    const cdp_interval *iv;
    for (uint32_t n = c->view->n_pieces; n > 1;) {
        uint32_t half = n / 2;
        p += p[half].start <= at ? half : 0;
        n -= half;
    }
    if (c->view->n_pieces == 0 || at < p->start || at >= p->end)
        return cdp_fail(st, CDP_INVALID, 0, at, "lookup: sector outside the view");
    c->piece = p;
    iv = c->view->intervals + p->first;
    for (uint32_t i = 0; i < c->n_sources; i++) {
        source *s = &c->sources[i];
        int visible = 0;
        for (uint32_t k = 0; k < p->count; k++)
            visible |= s->lo < iv[k].hi && iv[k].lo < s->hi && c->floor < s->hi;
        s->found = 0;
        s->from = s->until = at;
        if (!visible)
            s->until = UINT64_MAX;
    }
    return CDP_OK;
}

/* The piece that begins at `at`: its location, and its end in *end, which the caller has set to the most it may be. */
static int next_piece(cursor *c, uint64_t at, uint64_t *end, uint64_t *loc, cdp_status *st)
{
    const cdp_interval *iv;
    uint32_t n_iv;
    if ((c->piece == NULL || at >= c->piece->end) && enter_piece(c, at, st) != CDP_OK)
        return st->code;
    iv = c->view->intervals + c->piece->first;
    n_iv = c->piece->count;
    if (c->piece->end < *end)
        *end = c->piece->end;
    *loc = CDP_LOC_BASE;
    for (uint32_t i = 0; i < c->n_sources; i++) {
        source *s = &c->sources[i];
        if (s->until <= at) {
            cdp_hit hit;
            /* The next run's first cache misses pass while this one is searched: 15 % off with seven runs. */
            if (i + 1 < c->n_sources && s[1].until <= at && s[1].run != NULL)
                cdp_run_seek(s[1].run, at, &s[1].place);
            if (s->tree != NULL)
                cdp_tree_find_near(s->tree, at, iv, n_iv, &hit, &s->place);
            else if (cdp_run_find_near(s->run, at, iv, n_iv, &hit, &s->place, st) != CDP_OK)
                return CDP_CORRUPT;
            s->found = hit.found && hit.seq > c->floor; /* the newest visible one: all others are older */
            s->from = at;
            s->until = hit.until;
            s->loc = hit.loc;
        }
        if (s->until < *end)
            *end = s->until;
        if (s->found) {
            *loc = cdp_loc_add(s->loc, at - s->from);
            break;
        }
    }
    return CDP_OK;
}

/* Appends [start, end) to the pieces, or to the last of them; 0: no room. */
static inline int append(cdp_piece *out, uint64_t cap, uint64_t *n, uint64_t start, uint64_t end, uint64_t loc)
{
    if (*n > 0) {
        cdp_piece *last = &out[*n - 1];
        if (last->end == start && cdp_loc_add(last->loc, start - last->start) == loc) {
            last->end = end;
            return 1;
        }
    }
    if (*n == cap)
        return 0;
    out[(*n)++] = (cdp_piece){start, end, loc};
    return 1;
}

/* Looks [at, end) up, appending to out; *at is where that ended. 1: at `end`; 0: no room, or no more steps; negative:
   -code. */
static int look(cursor *c, uint64_t *at, uint64_t end, cdp_piece *out, uint64_t cap, uint64_t *n, uint64_t *steps,
                cdp_status *st)
{
    while (*at < end) {
        uint64_t to = end, loc;
        int rc;
        if (!cdp_take_step(steps))
            return 0;
        rc = next_piece(c, *at, &to, &loc, st);
        if (rc != CDP_OK)
            return -rc;
        if (!append(out, cap, n, *at, to, loc))
            return 0;
        *at = to;
    }
    return 1;
}

int64_t cdp_lookup(const cdp_view *view, cdp_tree *const *trees, uint32_t n_trees, cdp_run *const *runs,
                   uint32_t n_runs, uint64_t start, uint64_t end, cdp_piece *out, uint64_t cap, uint64_t *steps,
                   uint64_t *reached, cdp_status *st)
{
    uint64_t n = 0;
    cursor c;
    int rc = -start_cursor(&c, view, trees, n_trees, runs, n_runs, st);
    *reached = start;
    if (rc == 0)
        rc = look(&c, reached, end, out, cap, &n, steps, st);
    return rc < 0 ? rc : (int64_t)n;
}

int64_t cdp_lookup_runs(const cdp_view *view, cdp_run *const *runs, uint32_t n_runs, uint64_t floor,
                        const cdp_piece *in, uint64_t n_in, cdp_piece *out, uint64_t cap, uint64_t *steps,
                        uint64_t *reached, cdp_status *st)
{
    uint64_t n = 0;
    cursor c;
    int rc = -start_cursor(&c, view, NULL, 0, runs, n_runs, st);
    c.floor = floor;
    *reached = n_in > 0 ? in[0].start : 0;
    for (uint64_t i = 0; rc >= 0 && i < n_in; i++) {
        *reached = in[i].start;
        if (in[i].loc == CDP_LOC_BASE) {
            rc = look(&c, reached, in[i].end, out, cap, &n, steps, st);
        } else {
            rc = append(out, cap, &n, in[i].start, in[i].end, in[i].loc);
            if (rc > 0)
                *reached = in[i].end;
        }
        if (rc == 0)
            break;
    }
    return rc < 0 ? rc : (int64_t)n;
}
