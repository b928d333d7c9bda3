/* Merges runs into one: see cdp_run_merge in index.h.
 *
 * A sweep over the sectors with one cursor per source. Between two neighbouring ends of any source's extents the set of
 * sources that cover is constant; that stretch's column is theirs, oldest source first, and so ascending. The column is
 * not copied to be compared or written: slices point into the mapped sources. A stretch is kept back until the next one
 * is seen, because the two may be one (the cut between them belonged to dropped versions, or to an extent that was too
 * long for the format). */
#include "index/index_impl.h"
#include "index/run_writer.h"

/* A stretch of the output that may still grow. */
typedef struct stretch {
    uint64_t start, end; /* start == end: none */
    cdp_slice slices[CDP_MAX_RUNS];
    uint32_t n_slices;
} stretch;

static cdp_column column_of(const stretch *s, const cdp_interval *dropped, uint32_t n_dropped)
{
    return (cdp_column){s->slices, dropped, s->n_slices, n_dropped};
}

/* The next version of a column that is not dropped; 0: no more. */
typedef struct reader {
    const cdp_column *column;
    uint32_t slice;
    uint64_t i;
} reader;

static int next_version(reader *r, uint64_t delta, struct cdp_run_version *v)
{
    const cdp_column *c = r->column;
    for (; r->slice < c->n_slices; r->slice++, r->i = 0) {
        const cdp_slice *s = &c->slices[r->slice];
        while (r->i < s->n) {
            *v = s->versions[r->i++];
            if (c->n_dropped > 0 && cdp_is_dropped(c, v->seq))
                continue;
            v->loc = cdp_loc_add(v->loc, s->delta + delta);
            return 1;
        }
    }
    return 0;
}

/* Does b's column say of b's sectors what a's would say of them? */
static int continues(const stretch *a, const stretch *b, const cdp_interval *dropped, uint32_t n_dropped)
{
    const cdp_column ca = column_of(a, dropped, n_dropped), cb = column_of(b, dropped, n_dropped);
    const uint64_t by = b->start - a->start;
    struct cdp_run_version va, vb;
    reader ra = {&ca, 0, 0}, rb = {&cb, 0, 0};
    uint64_t na = 0, nb = 0;
    if (a->start == a->end || a->end != b->start)
        return 0;
    if (n_dropped == 0) { /* the columns' lengths are enough, most of the time */
        for (uint32_t i = 0; i < a->n_slices; i++)
            na += a->slices[i].n;
        for (uint32_t i = 0; i < b->n_slices; i++)
            nb += b->slices[i].n;
        if (na != nb)
            return 0;
    }
    for (;;) {
        int more_a = next_version(&ra, by, &va), more_b = next_version(&rb, 0, &vb);
        if (!more_a || !more_b)
            return more_a == more_b;
        if (va.seq != vb.seq || va.loc != vb.loc)
            return 0;
    }
}

static int put(cdp_run_writer *w, const stretch *s, const cdp_interval *dropped, uint32_t n_dropped, cdp_status *st)
{
    const cdp_column c = column_of(s, dropped, n_dropped);
    return s->start == s->end ? CDP_OK : cdp_run_writer_put(w, s->start, s->end, &c, st);
}

static int sweep(cdp_run_writer *w, cdp_run *const *runs, uint32_t n, const cdp_interval *dropped, uint32_t n_dropped,
                 cdp_status *st)
{
    cdp_run_cursor cursors[CDP_MAX_RUNS];
    stretch two[2], *held = &two[0], *now = &two[1];
    uint64_t at = UINT64_MAX;
    held->start = held->end = 0;
    for (uint32_t i = 0; i < n; i++) {
        cdp_run_cursor_init(&cursors[i], runs[i]);
        if (cdp_run_cursor_next(&cursors[i], st) != CDP_OK)
            return st->code;
        at = cursors[i].start < at ? cursors[i].start : at;
    }
    while (at != UINT64_MAX) {
        uint64_t next = UINT64_MAX;
        now->n_slices = 0;
        for (uint32_t i = 0; i < n; i++) {
            cdp_run_cursor *c = &cursors[i];
            uint64_t change = c->start > at ? c->start : c->end;
            if (c->start <= at) /* at < UINT64_MAX, where ended ones are */
                now->slices[now->n_slices++] = (cdp_slice){c->versions, c->n_versions, at - c->start};
            next = change < next ? change : next;
        }
        if (now->n_slices > 0) {
            now->start = at;
            now->end = next;
            if (continues(held, now, dropped, n_dropped)) {
                held->end = now->end;
            } else {
                stretch *s = held;
                if (put(w, held, dropped, n_dropped, st) != CDP_OK)
                    return st->code;
                held = now;
                now = s;
            }
        }
        at = next;
        for (uint32_t i = 0; i < n; i++)
            if (cursors[i].end <= at && cursors[i].start != UINT64_MAX
                && cdp_run_cursor_next(&cursors[i], st) != CDP_OK)
                return st->code;
    }
    return put(w, held, dropped, n_dropped, st);
}

int cdp_run_merge(const cdp_os *os, const char *path, const cdp_run_meta *meta, cdp_run *const *runs, uint32_t n,
                  const cdp_interval *dropped, uint32_t n_dropped, cdp_status *st)
{
    uint64_t last_seq = 0;
    cdp_run_writer *w;
    int rc;
    if (n == 0 || n > CDP_MAX_RUNS)
        return cdp_fail(st, CDP_INVALID, 0, 0, "merge: number of runs");
    for (uint32_t i = 0; i < n; i++) {
        const struct cdp_run_header *h = &runs[i]->header;
        if (memcmp(h->volume_uuid, meta->uuid, 16) != 0)
            return cdp_fail(st, CDP_INVALID, 0, 0, "merge: runs of different volumes");
        if (h->n_extents == 0)
            continue;
        if (h->first_seq <= last_seq && i > 0)
            return cdp_fail(st, CDP_INVALID, 0, 0, "merge: runs out of order");
        last_seq = h->last_seq;
    }
    rc = cdp_run_writer_new(os, path, meta, &w, st);
    if (rc != CDP_OK)
        return rc;
    rc = sweep(w, runs, n, dropped, n_dropped, st);
    return cdp_run_writer_end(w, rc, st);
}
