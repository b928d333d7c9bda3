/* The history of a range: which records gave a sector of it a version, oldest first. See index.h.
 *
 * Every source is walked from the range's first extent to its last; nothing else of it is read. What is found comes in
 * sector order, wanted are the lowest seqs: rows are gathered in a buffer of twice the number that was asked for, and
 * each time it is full it is sorted, the rows of one record are joined, and what lies above the last row that is wanted
 * is forgotten, and not gathered again. So memory is bounded, and n versions cost O(n log cap).
 *
 * Threading: as lookup.c; the caller's lock keeps the trees' writer away. */
#include <errno.h>
#include <stdlib.h>
#include "index/index_impl.h"

typedef struct gathering {
    cdp_history_row *rows; /* 2 * cap */
    uint64_t cap, n;
    uint64_t lo, hi;       /* wanted are lo < seq <= hi */
    int more;              /* there are rows above hi, which was lowered */
    const cdp_view *line;
    uint32_t piece;        /* of the line, where the last row was looked for */
} gathering;

static int by_seq(const void *x, const void *y)
{
    const cdp_history_row *a = x, *b = y;
    if (a->seq != b->seq)
        return a->seq < b->seq ? -1 : 1;
    return a->start < b->start ? -1 : a->start > b->start;
}

/* Sorts the rows, joins those of one record, and keeps the first `cap`. */
static void settle_rows(gathering *g)
{
    uint64_t n = 0;
    qsort(g->rows, g->n, sizeof *g->rows, by_seq);
    for (uint64_t i = 0; i < g->n; i++) {
        const cdp_history_row r = g->rows[i];
        if (n > 0 && g->rows[n - 1].seq == r.seq) {
            cdp_history_row *last = &g->rows[n - 1];
            last->end = r.end > last->end ? r.end : last->end;
            last->sectors += r.sectors;
            last->on_line |= r.on_line;
        } else {
            g->rows[n++] = r;
        }
    }
    if (n > g->cap) {
        n = g->cap;
        g->hi = g->rows[n - 1].seq;
        g->more = 1;
    }
    g->n = n;
}

/* Does the line show, somewhere in [start, end), versions of `seq` where no newer one is? */
static int on_line(gathering *g, uint64_t start, uint64_t end, uint64_t seq)
{
    const cdp_view *v = g->line;
    uint32_t i = g->piece;
    if (i >= v->n_pieces || v->pieces[i].start > start || v->pieces[i].end <= start) {
        uint32_t n = v->n_pieces;
        for (i = 0; n > 1;) {
            uint32_t half = n / 2;
            i += v->pieces[i + half].start <= start ? half : 0;
            n -= half;
        }
        g->piece = i;
    }
    for (; i < v->n_pieces && v->pieces[i].start < end; i++) {
        const cdp_interval *iv = v->intervals + v->pieces[i].first;
        for (uint32_t k = 0; k < v->pieces[i].count && iv[k].hi >= seq; k++)
            if (iv[k].lo < seq)
                return 1;
    }
    return 0;
}

static void gather(void *ctx, uint64_t start, uint64_t end, uint64_t seq)
{
    gathering *g = ctx;
    if (seq <= g->lo || seq > g->hi)
        return;
    if (g->n == 2 * g->cap) {
        settle_rows(g);
        if (seq > g->hi)
            return;
    }
    g->rows[g->n++] = (cdp_history_row){seq, start, end, end - start, (uint32_t)on_line(g, start, end, seq), 0};
}

static int walk_run(gathering *g, const cdp_run *r, uint64_t start, uint64_t end, cdp_status *st)
{
    cdp_run_cursor c;
    cdp_place place = CDP_NO_PLACE;
    cdp_run_cursor_init(&c, r);
    if (cdp_run_seek(r, start, &place))
        c.next_block = place.group;
    for (;;) {
        uint64_t a, b, first = 0;
        if (c.next_extent == c.block.n_extents && c.next_block < r->header.n_blocks && r->starts[c.next_block] >= end)
            return CDP_OK;
        if (cdp_run_cursor_next(&c, st) != CDP_OK)
            return CDP_CORRUPT;
        if (c.start >= end)
            return CDP_OK;
        if (c.end <= start)
            continue;
        a = c.start > start ? c.start : start;
        b = c.end < end ? c.end : end;
        for (uint64_t n = c.n_versions; n > 0;) { /* the first one above lo */
            uint64_t half = n / 2;
            if (c.versions[first + half].seq <= g->lo) {
                first += half + 1;
                n -= half + 1;
            } else {
                n = half;
            }
        }
        for (uint64_t i = first; i < c.n_versions && c.versions[i].seq <= g->hi; i++)
            gather(g, a, b, c.versions[i].seq);
    }
}

int cdp_history_of_trees(const cdp_view *line, cdp_tree *const *trees, uint32_t n_trees, uint64_t start, uint64_t end,
                         uint64_t lo, uint64_t hi, cdp_history_row *rows, uint64_t cap, uint64_t *n)
{
    gathering g = {.rows = rows, .cap = cap, .n = *n, .lo = lo, .hi = hi, .line = line};
    for (uint32_t i = n_trees; i-- > 0;)
        cdp_tree_visit(trees[i], start, end, lo, gather, &g);
    settle_rows(&g);
    *n = g.n;
    return g.more;
}

int cdp_history_of_runs(const cdp_view *line, cdp_run *const *runs, uint32_t n_runs, uint64_t start, uint64_t end,
                        uint64_t lo, uint64_t hi, cdp_history_row *rows, uint64_t cap, uint64_t *n, cdp_status *st)
{
    gathering g = {.rows = rows, .cap = cap, .n = *n, .lo = lo, .hi = hi, .line = line};
    for (uint32_t i = n_runs; i-- > 0;) {
        const struct cdp_run_header *h = cdp_run_header_of(runs[i]);
        if (h->n_extents == 0 || h->last_seq <= lo || h->first_seq > g.hi)
            continue;
        if (walk_run(&g, runs[i], start, end, st) != CDP_OK)
            return -CDP_CORRUPT;
    }
    settle_rows(&g);
    *n = g.n;
    return g.more;
}
