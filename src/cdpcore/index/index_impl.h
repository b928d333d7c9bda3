/* What only the files of the index share: searches that remember their place, and the
 * inside of a run. Callers use index.h. */
#ifndef CDP_INDEX_IMPL_H
#define CDP_INDEX_IMPL_H
#include <stdatomic.h>
#include <string.h>
#include "index/index.h"

/* Where the last search of one source ended: a guess that makes the next search near it cheap. Any value is safe. */
typedef struct cdp_place {
    uint32_t group; /* leaf of a tree, block of a run */
    uint32_t slot;  /* in it */
} cdp_place;
#define CDP_NO_PLACE ((cdp_place){UINT32_MAX, 0})

/* In place of the number of intervals: there is one, and wanted is the oldest version in it, not the newest. */
#define CDP_OLDEST UINT32_MAX

void cdp_tree_find_near(const cdp_tree *t, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit,
                        cdp_place *place);
/* No version outside (*lo, *hi] is in the tree; *hi == *lo: there is none at all. */
void cdp_tree_seqs(const cdp_tree *t, uint64_t *lo, uint64_t *hi);

/* Every version with seq > lo of a sector of [start, end), stretch by stretch, each one newest first. Readers of the
 * tree do not mind it. */
typedef void cdp_tree_visitor(void *ctx, uint64_t start, uint64_t end, uint64_t seq);
void cdp_tree_visit(const cdp_tree *t, uint64_t start, uint64_t end, uint64_t lo, cdp_tree_visitor *visit, void *ctx);

/* Moves the place to the sector's block and starts to load what a find there will read; 0: before the first block. */
int cdp_run_seek(const cdp_run *r, uint64_t sector, cdp_place *place);
int cdp_run_find_near(const cdp_run *r, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit,
                      cdp_place *place, cdp_status *st);

struct cdp_run_place {
    uint64_t versions_offset, extents_offset;
};

struct cdp_run {
    const cdp_os *os;
    const uint8_t *map;             /* the whole file, read-only */
    uint64_t map_bytes;
    struct cdp_run_header header;   /* a checked copy */
    const struct cdp_run_fence *fences; /* in the map */
    uint64_t *starts;               /* n_blocks: the fences' starts, packed for the search ... */
    struct cdp_run_place *places;   /* ... and n_blocks + 1: where their blocks lie */
    const uint32_t *crcs;           /* in the map */
    uint64_t n_spans;
    _Atomic uint64_t *checked;      /* one bit per CRC span: it was read and its CRC was right */
};

/* One block of a run, its extents' CRC spans checked. */
typedef struct cdp_run_block {
    const struct cdp_run_version *versions;
    const struct cdp_run_extent *extents;
    uint32_t n_extents, n_versions;
    uint64_t versions_offset, extents_offset; /* in the file */
} cdp_run_block;

/* Fails with CDP_CORRUPT. */
int cdp_run_block_at(const cdp_run *r, uint64_t block, cdp_run_block *b, cdp_status *st);
/* The CRC spans that hold bytes [off, off + n) of the file; each is read once in the run's life. */
int cdp_run_check_spans(const cdp_run *r, uint64_t off, uint64_t n, cdp_status *st);

/* Walks the extents of a run, checking every rule that the merge relies on (not the versions' order). */
typedef struct cdp_run_cursor {
    const cdp_run *run;
    cdp_run_block block;
    uint64_t next_block;
    uint32_t next_extent;           /* in `block` */
    uint64_t start, end;            /* the current extent; end of the run: both UINT64_MAX */
    const struct cdp_run_version *versions;
    uint64_t n_versions;
} cdp_run_cursor;

/* Before the first extent; then cdp_run_cursor_next for each. */
void cdp_run_cursor_init(cdp_run_cursor *c, const cdp_run *r);
int cdp_run_cursor_next(cdp_run_cursor *c, cdp_status *st);

/* One more step of a look-up; 0: it may take no more. NULL: it may take any number. */
static inline int cdp_take_step(uint64_t *steps)
{
    if (steps == NULL)
        return 1;
    if (*steps == 0)
        return 0;
    --*steps;
    return 1;
}

/* The place of the last element <= x in ascending a[0..n), n >= 1 and a[0] <= x; no branch depends on the data. */
static inline uint64_t cdp_last_le(const uint64_t *a, uint64_t n, uint64_t x)
{
    const uint64_t *p = a;
    while (n > 1) {
        uint64_t half = n / 2;
        p += p[half] <= x ? half : 0;
        n -= half;
    }
    return (uint64_t)(p - a);
}

#endif
