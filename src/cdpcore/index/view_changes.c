/* What one of two views shows and the other does not, as a view. See index.h. */
#include <errno.h>
#include <stdlib.h>
#include "index/index.h"

/* The intervals in one of the lists and not in both; newest first, as they are. Goes down over their ends. */
static uint32_t exclusive(const cdp_interval *a, uint32_t n_a, const cdp_interval *b, uint32_t n_b, cdp_interval *out)
{
    uint32_t i = 0, j = 0, n = 0;
    int in_a = 0, in_b = 0, open = 0;
    uint64_t hi = 0;
    while (i < n_a || j < n_b) {
        const uint64_t at_a = i == n_a ? 0 : in_a ? a[i].lo : a[i].hi, at_b = j == n_b ? 0 : in_b ? b[j].lo : b[j].hi;
        const uint64_t at = at_a > at_b ? at_a : at_b;
        if (i < n_a && at_a == at) {
            i += (uint32_t)in_a;
            in_a = !in_a;
        }
        if (j < n_b && at_b == at) {
            j += (uint32_t)in_b;
            in_b = !in_b;
        }
        if (in_a != in_b && !open) {
            hi = at;
        } else if (in_a == in_b && open && at < hi) {
            out[n++] = (cdp_interval){at, hi};
        }
        open = in_a != in_b;
    }
    return n;
}

int cdp_view_changes(const cdp_view *a, const cdp_view *b, cdp_view *out)
{
    const uint64_t most = (uint64_t)a->n_pieces + b->n_pieces;
    uint64_t n_intervals = 0;
    uint32_t i = 0, j = 0, n = 0, k = 0;
    cdp_view_piece *pieces = malloc((most + 1) * sizeof *pieces);
    cdp_interval *intervals;
    for (i = j = 0; i < a->n_pieces && j < b->n_pieces;) { /* pieces that overlap, and what they can come to */
        n_intervals += a->pieces[i].count + b->pieces[j].count;
        if (a->pieces[i].end < b->pieces[j].end)
            i++;
        else
            j++;
    }
    intervals = malloc((n_intervals + 1) * sizeof *intervals);
    if (pieces == NULL || intervals == NULL) {
        free(pieces);
        free(intervals);
        return ENOMEM;
    }
    for (i = j = 0; i < a->n_pieces && j < b->n_pieces;) {
        const cdp_view_piece *p = &a->pieces[i], *q = &b->pieces[j];
        const uint32_t count = exclusive(a->intervals + p->first, p->count, b->intervals + q->first, q->count,
                                         intervals + k);
        pieces[n].start = p->start > q->start ? p->start : q->start;
        pieces[n].end = p->end < q->end ? p->end : q->end;
        pieces[n].first = k;
        pieces[n].count = count;
        pieces[n].first_freed = pieces[n].n_freed = 0;
        k += count;
        n++;
        i += p->end == pieces[n - 1].end;
        j += q->end == pieces[n - 1].end;
    }
    *out = (cdp_view){.n_pieces = n, .n_intervals = k, .pieces = pieces, .intervals = intervals};
    return 0;
}
