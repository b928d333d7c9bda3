/* The extent tree: the index of a segment that has no run yet. See index.h for the contract.
 *
 * The sectors 0..2^64 are cut into stretches. A stretch runs from its first sector to the next stretch's and has a
 * head: the newest version in it, or 0 where nothing was ever written. Gaps are stretches like any other, so an insert
 * is: cut at start, cut at end, put a version before the head of every stretch between. Cutting copies the head,
 * because chains of versions are never changed.
 *
 * Stretches lie in leaves of up to 128, in order; a directory, a sorted array, has the first sector and the number of
 * every leaf. Both are searched by halving: 10 to 13 steps in the directory (at most 64 KiB for 2^18 records), 7 in a
 * leaf.
 *
 * A version (node) names its record and the version before it, and has a jump pointer as in a skew-binary
 * random-access list (Myers 1983): finding the newest version at or before a seq takes O(log depth) steps, adding one
 * O(1).
 *
 * Bounds, for n records
 *  1. An insert adds at most two cuts: stretches <= 2n + 1.
 *  2. Leaves are cut in halves, but for the last one, so all others keep >= 64 stretches: leaves <= (2n + 1) / 64 + 2.
 *  3. An insert adds one version per stretch in its range, and the last stretch (up to 2^64) is never in it:
 *     versions <= stretches before it + 1. cdp_tree_has_room asks for just that, so insert never fails.
 *  4. Arrays are allocated once for max_records; the kernel gives memory as they fill. */
#include <stdlib.h>
#include "index/index_impl.h"

#define LEAF 128u
#define HALF (LEAF / 2)
#define NODES_PER_RECORD 8u /* random 4 KiB writes use 1; 8 leaves room for writes that cover many stretches */
#define MAX_RECORDS (1u << 28) /* keeps every index below 2^32 */

typedef struct leaf {
    uint64_t start[LEAF];
    uint32_t head[LEAF];
} leaf;

typedef struct node { /* a version of a stretch; 0 stands for none */
    uint32_t rec;
    uint32_t prev;  /* next older */
    uint32_t jump;  /* some older one */
    uint32_t depth; /* versions from here to the oldest, this one included */
} node;

typedef struct record {
    uint64_t seq, start, loc;
} record;

struct cdp_tree {
    uint32_t max_records;
    uint32_t n_records; /* record 0 is the end of every chain and is not counted */
    uint32_t n_nodes, cap_nodes;
    uint32_t n_cuts;    /* stretches */
    uint32_t n_leaves;
    uint32_t last;      /* directory place of the last insert */
    uint64_t *first;    /* directory: the first sector ... */
    uint32_t *id;       /* ... and the number of each leaf */
    uint32_t *fill;     /* stretches in each leaf, by number */
    leaf *leaves;       /* by number */
    node *nodes;
    record *records;
    struct cdp_run_version *column; /* the iterator's: a column has at most one version per record */
};

static uint32_t max_leaves(uint32_t max_records)
{
    return (2 * max_records + 1) / HALF + 2;
}

cdp_tree *cdp_tree_new(uint32_t max_records)
{
    cdp_tree *t;
    uint64_t n_leaves;
    if (max_records == 0 || max_records > MAX_RECORDS || (t = calloc(1, sizeof *t)) == NULL)
        return NULL;
    n_leaves = max_leaves(max_records);
    t->max_records = max_records;
    t->cap_nodes = NODES_PER_RECORD * max_records + NODES_PER_RECORD;
    t->first = malloc(n_leaves * sizeof *t->first);
    t->id = malloc(n_leaves * sizeof *t->id);
    t->fill = malloc(n_leaves * sizeof *t->fill);
    t->leaves = malloc(n_leaves * sizeof *t->leaves);
    t->nodes = malloc((uint64_t)t->cap_nodes * sizeof *t->nodes);
    t->records = malloc(((uint64_t)max_records + 1) * sizeof *t->records);
    t->column = malloc((uint64_t)max_records * sizeof *t->column);
    if (!t->first || !t->id || !t->fill || !t->leaves || !t->nodes || !t->records || !t->column) {
        cdp_tree_free(t);
        return NULL;
    }
    t->nodes[0] = (node){0, 0, 0, 0};
    t->records[0] = (record){0, 0, 0};
    t->n_nodes = 1;
    t->n_cuts = t->n_leaves = 1;
    t->first[0] = 0;
    t->id[0] = 0;
    t->fill[0] = 1;
    t->leaves[0].start[0] = 0;
    t->leaves[0].head[0] = 0;
    return t;
}

void cdp_tree_free(cdp_tree *t)
{
    if (t == NULL)
        return;
    free(t->first);
    free(t->id);
    free(t->fill);
    free(t->leaves);
    free(t->nodes);
    free(t->records);
    free(t->column);
    free(t);
}

int cdp_tree_has_room(const cdp_tree *t, uint32_t n)
{
    /* Disjoint inserts share the stretches there are, and each cuts at most two more. */
    return (uint64_t)t->n_records + n <= t->max_records && (uint64_t)t->n_nodes + t->n_cuts + 3ull * n <= t->cap_nodes;
}

uint64_t cdp_tree_bytes(const cdp_tree *t)
{
    return sizeof *t + (uint64_t)t->n_leaves * (sizeof *t->first + sizeof *t->id + sizeof *t->fill + sizeof *t->leaves)
         + (uint64_t)t->n_nodes * sizeof *t->nodes + (uint64_t)(t->n_records + 1) * sizeof *t->records;
}

void cdp_tree_seqs(const cdp_tree *t, uint64_t *lo, uint64_t *hi)
{
    *hi = t->records[t->n_records].seq;
    *lo = t->n_records ? t->records[1].seq - 1 : *hi;
}

/* --- places ---------------------------------------------------------------------------------------------------- */

/* The directory place of the leaf that holds sector x; `guess` is tried first. */
static inline uint32_t find_leaf(const cdp_tree *t, uint64_t x, uint32_t guess)
{
    if (guess < t->n_leaves && t->first[guess] <= x && (guess + 1 == t->n_leaves || x < t->first[guess + 1]))
        return guess;
    return (uint32_t)cdp_last_le(t->first, t->n_leaves, x);
}

/* The stretch that holds sector x in leaf l of n stretches. */
static inline uint32_t find_stretch(const leaf *l, uint32_t n, uint64_t x)
{
    return (uint32_t)cdp_last_le(l->start, n, x);
}

/* The first sector after stretch i of the leaf at place d. */
static inline uint64_t stretch_end(const cdp_tree *t, uint32_t d, const leaf *l, uint32_t n, uint32_t i)
{
    return i + 1 < n ? l->start[i + 1] : d + 1 < t->n_leaves ? t->first[d + 1] : UINT64_MAX;
}

/* --- inserting ------------------------------------------------------------------------------------------------- */

/* A new leaf at directory place d. */
static uint32_t add_leaf(cdp_tree *t, uint32_t d, uint64_t first)
{
    uint32_t id = t->n_leaves;
    memmove(t->first + d + 1, t->first + d, (t->n_leaves - d) * sizeof *t->first);
    memmove(t->id + d + 1, t->id + d, (t->n_leaves - d) * sizeof *t->id);
    t->first[d] = first;
    t->id[d] = id;
    t->n_leaves++;
    return id;
}

/* Makes room for stretches in the leaf at place d, before its stretch i (1 <= i <= n). A leaf is halved; but at the
 * very end a fresh one is begun, so that ascending writes leave full leaves behind. */
static void split_leaf(cdp_tree *t, uint32_t *d, uint32_t *i, uint64_t start)
{
    uint32_t from = t->id[*d], to;
    leaf *a = &t->leaves[from], *b;
    if (*d + 1 == t->n_leaves && *i == LEAF) {
        to = add_leaf(t, ++*d, start);
        t->fill[to] = 0;
        *i = 0;
        return;
    }
    to = add_leaf(t, *d + 1, a->start[HALF]);
    b = &t->leaves[to];
    memcpy(b->start, a->start + HALF, HALF * sizeof *a->start);
    memcpy(b->head, a->head + HALF, HALF * sizeof *a->head);
    t->fill[from] = t->fill[to] = HALF;
    if (*i > HALF) {
        ++*d;
        *i -= HALF;
    }
}

/* Cuts at x, unless there is a cut already; gives the place of the stretch that begins there. */
static void cut(cdp_tree *t, uint64_t x, uint32_t guess, uint32_t *place, uint32_t *stretch)
{
    uint32_t d = find_leaf(t, x, guess), id = t->id[d], n = t->fill[id], head, i;
    leaf *l = &t->leaves[id];
    i = find_stretch(l, n, x);
    if (l->start[i] != x) {
        head = l->head[i];
        i++;
        if (n == LEAF) {
            split_leaf(t, &d, &i, x);
            id = t->id[d];
            n = t->fill[id];
            l = &t->leaves[id];
        }
        memmove(l->start + i + 1, l->start + i, (n - i) * sizeof *l->start);
        memmove(l->head + i + 1, l->head + i, (n - i) * sizeof *l->head);
        l->start[i] = x;
        l->head[i] = head;
        t->fill[id] = n + 1;
        t->n_cuts++;
    }
    *place = d;
    *stretch = i;
}

static inline uint32_t push(cdp_tree *t, uint32_t head, uint32_t rec)
{
    const node *p = &t->nodes[head], *j = &t->nodes[p->jump];
    uint32_t id = t->n_nodes++;
    uint32_t jump = p->depth - j->depth == j->depth - t->nodes[j->jump].depth ? j->jump : head;
    t->nodes[id] = (node){rec, head, jump, p->depth + 1};
    return id;
}

void cdp_tree_insert(cdp_tree *t, uint64_t seq, uint64_t start, uint64_t end, uint64_t loc)
{
    uint32_t rec = ++t->n_records, d, i, n, id;
    uint64_t next;
    leaf *l;
    t->records[rec] = (record){seq, start, loc};
    d = find_leaf(t, start, t->last);
    id = t->id[d];
    n = t->fill[id];
    l = &t->leaves[id];
    i = find_stretch(l, n, start);
    next = stretch_end(t, d, l, n, i);
    if (end <= next && n + 2 <= LEAF) { /* the usual case: inside one stretch, both cuts in one move */
        uint32_t head = l->head[i], a = l->start[i] != start, b = end != next, by = a + b;
        if (by) {
            memmove(l->start + i + 1 + by, l->start + i + 1, (n - i - 1) * sizeof *l->start);
            memmove(l->head + i + 1 + by, l->head + i + 1, (n - i - 1) * sizeof *l->head);
            t->fill[id] = n + by;
            t->n_cuts += by;
        }
        l->start[i + a] = start;
        l->head[i + a] = push(t, head, rec);
        if (b) {
            l->start[i + a + 1] = end;
            l->head[i + a + 1] = head;
        }
        t->last = d;
        return;
    }
    cut(t, end, d, &d, &i); /* first, for it may move the stretches behind `start` only */
    cut(t, start, d, &d, &i);
    for (;;) {
        id = t->id[d];
        n = t->fill[id];
        l = &t->leaves[id];
        for (; i < n && l->start[i] < end; i++)
            l->head[i] = push(t, l->head[i], rec);
        if (i < n)
            break;
        d++; /* there is one: the cut at `end` begins a stretch */
        i = 0;
    }
    t->last = d;
}

/* --- reading --------------------------------------------------------------------------------------------------- */

/* The newest version from `head` on with seq <= hi; 0: none. */
static inline uint32_t newest(const cdp_tree *t, uint32_t head, uint64_t hi)
{
    uint32_t x = head;
    while (t->records[t->nodes[x].rec].seq > hi) { /* record 0 has seq 0 */
        uint32_t j = t->nodes[x].jump;
        x = t->records[t->nodes[j].rec].seq > hi ? j : t->nodes[x].prev;
    }
    return x;
}

/* The oldest version from `head` on with seq > lo; 0: none. */
static inline uint32_t oldest(const cdp_tree *t, uint32_t head, uint64_t lo)
{
    uint32_t x = head;
    if (t->records[t->nodes[x].rec].seq <= lo)
        return 0;
    for (;;) {
        uint32_t j = t->nodes[x].jump, p = t->nodes[x].prev;
        if (t->records[t->nodes[j].rec].seq > lo)
            x = j;
        else if (t->records[t->nodes[p].rec].seq > lo)
            x = p;
        else
            return x;
    }
}

void cdp_tree_find_near(const cdp_tree *t, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit,
                        cdp_place *place)
{
    uint32_t d = find_leaf(t, sector, place->group), id = t->id[d], n = t->fill[id];
    const leaf *l = &t->leaves[id];
    uint32_t i = find_stretch(l, n, sector), x = l->head[i];
    *place = (cdp_place){d, i};
    hit->found = 0;
    hit->until = stretch_end(t, d, l, n, i);
    hit->seq = hit->loc = 0;
    for (uint32_t k = 0; k < (n_iv == CDP_OLDEST ? 1 : n_iv) && x; k++) {
        const record *r;
        x = n_iv == CDP_OLDEST ? oldest(t, x, iv->lo) : newest(t, x, iv[k].hi);
        r = &t->records[t->nodes[x].rec];
        if (x && r->seq > iv[k].lo && r->seq <= iv[k].hi) {
            hit->found = 1;
            hit->seq = r->seq;
            hit->loc = cdp_loc_add(r->loc, sector - r->start);
            return;
        }
    }
}

void cdp_tree_find(const cdp_tree *t, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit)
{
    cdp_place place = CDP_NO_PLACE;
    cdp_tree_find_near(t, sector, iv, n_iv, hit, &place);
}

void cdp_tree_visit(const cdp_tree *t, uint64_t start, uint64_t end, uint64_t lo, cdp_tree_visitor *visit, void *ctx)
{
    uint32_t d = find_leaf(t, start, UINT32_MAX), i = find_stretch(&t->leaves[t->id[d]], t->fill[t->id[d]], start);
    for (; d < t->n_leaves; d++, i = 0) {
        const leaf *l = &t->leaves[t->id[d]];
        const uint32_t n = t->fill[t->id[d]];
        for (; i < n; i++) {
            uint64_t a = l->start[i], b = stretch_end(t, d, l, n, i);
            if (a >= end)
                return;
            a = a > start ? a : start;
            b = b < end ? b : end;
            for (uint32_t x = l->head[i]; x && t->records[t->nodes[x].rec].seq > lo; x = t->nodes[x].prev)
                visit(ctx, a, b, t->records[t->nodes[x].rec].seq);
        }
    }
}

void cdp_tree_iter_init(cdp_tree_iter *it, const cdp_tree *t)
{
    it->tree = t;
    it->leaf = it->slot = 0;
}

int cdp_tree_iter_next(cdp_tree_iter *it, uint64_t *start, uint64_t *end, const struct cdp_run_version **versions,
                       uint64_t *n)
{
    const cdp_tree *t = it->tree;
    for (; it->leaf < t->n_leaves; it->leaf++, it->slot = 0) {
        uint32_t id = t->id[it->leaf], fill = t->fill[id];
        const leaf *l = &t->leaves[id];
        for (; it->slot < fill; it->slot++) {
            uint32_t x = l->head[it->slot], i = it->slot;
            if (x == 0)
                continue;
            *start = l->start[i];
            *end = stretch_end(t, it->leaf, l, fill, i);
            *versions = t->column;
            *n = t->nodes[x].depth;
            for (; x; x = t->nodes[x].prev) {
                const record *r = &t->records[t->nodes[x].rec];
                t->column[t->nodes[x].depth - 1] =
                    (struct cdp_run_version){r->seq, cdp_loc_add(r->loc, *start - r->start)};
            }
            it->slot++;
            return 1;
        }
    }
    return 0;
}
