/* The index: which version of a sector is visible at a seq.
 *
 * Two kinds of source answer the same question, "what covers sector x within these seq intervals, and up to which
 * sector does that answer hold?": the extent tree of a segment that has no run yet (extent_tree.c, mutable, in memory)
 * and a run (run.c, immutable, mapped). lookup.c asks them newest first and stitches pieces together.
 *
 * Invariants of both
 *  1. Extents are disjoint and ascending; every version in an extent's column covers the whole extent.
 *  2. A column is ascending in seq.
 *  3. Of two sources, all seqs of the newer are greater than all seqs of the older.
 *
 * Threading: a tree has one writer and any number of readers, kept apart by the caller's lock. A run may be read by
 * any thread without a lock, until it is closed. */
#ifndef CDP_INDEX_H
#define CDP_INDEX_H
#include <stdint.h>
#include "base/format.h"
#include "system/os.h"
#include "base/status.h"

/* --- what a reader may see ------------------------------------------------------------------------------------- */

typedef struct cdp_interval {
    uint64_t lo, hi; /* visible are lo < seq <= hi */
} cdp_interval;

typedef struct cdp_view_piece {
    uint64_t start, end;   /* sectors */
    uint32_t first, count; /* its intervals, newest first */
    uint32_t first_freed, n_freed; /* before-images only: intervals whose versions were freed, ascending */
} cdp_view_piece;

/* The lineage of a point: pieces cover [0, volume) without gaps; one piece unless a range was restored. Immutable. */
typedef struct cdp_view {
    uint32_t n_pieces, n_intervals;
    const cdp_view_piece *pieces;
    const cdp_interval *intervals;
    uint32_t n_freed;
    const cdp_interval *freed;
} cdp_view;

/* --- the answer of one source ---------------------------------------------------------------------------------- */

typedef struct cdp_hit {
    int found;      /* 1: seq and loc are the newest visible version at the asked sector */
    uint64_t until; /* > the asked sector: the answer (found or not) holds up to here, exclusive */
    uint64_t seq;
    uint64_t loc;   /* of the asked sector itself */
} cdp_hit;

/* --- extent tree ----------------------------------------------------------------------------------------------- */

typedef struct cdp_tree cdp_tree;

/* A tree for at most max_records (1..2^28) inserts; memory is committed as it fills. NULL: no memory. */
cdp_tree *cdp_tree_new(uint32_t max_records);
void cdp_tree_free(cdp_tree *t);
/* 1 while any `n` further inserts of disjoint ranges are sure to fit. */
int cdp_tree_has_room(const cdp_tree *t, uint32_t n);
/* The record `seq` (> 0; >= every earlier one; parts of one record repeat it and do not overlap) covers [start, end)
 * and its data begins at loc. Requires cdp_tree_has_room. Time: 0.1 us for a random 4 KiB write in 65 k, some 5 ns more
 * for every further extent in the range. */
void cdp_tree_insert(cdp_tree *t, uint64_t seq, uint64_t start, uint64_t end, uint64_t loc);
void cdp_tree_find(const cdp_tree *t, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit);
/* Memory in use, without the iterator's. */
uint64_t cdp_tree_bytes(const cdp_tree *t);

/* Walks extents in order. versions are written oldest first. One walk of a tree at a time; readers do not mind it. */
typedef struct cdp_tree_iter {
    const cdp_tree *tree;
    uint32_t leaf, slot;
} cdp_tree_iter;
void cdp_tree_iter_init(cdp_tree_iter *it, const cdp_tree *t);
/* 1: *start, *end and n versions at *versions (memory of the tree, valid until the next call); 0: the end. */
int cdp_tree_iter_next(cdp_tree_iter *it, uint64_t *start, uint64_t *end, const struct cdp_run_version **versions,
                       uint64_t *n);

/* --- run ------------------------------------------------------------------------------------------------------- */

typedef struct cdp_run cdp_run;

/* Maps the file and checks the header, the fences and the CRC spans that hold them; the blocks' spans are checked when
 * something first reads from them. `uuid` NULL: any volume's. The file must not be changed or cut while it is open. */
int cdp_run_open(const cdp_os *os, const char *path, const uint8_t uuid[16], cdp_run **out, cdp_status *st);
void cdp_run_close(cdp_run *r);
const struct cdp_run_header *cdp_run_header_of(const cdp_run *r);
/* A damaged block gives found = 0 with until = sector + 1 and *st filled; the return value is then CDP_CORRUPT. */
int cdp_run_find(const cdp_run *r, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit,
                 cdp_status *st);
/* Every CRC and every invariant, whatever was checked before. */
int cdp_run_verify(const cdp_run *r, cdp_status *st);

typedef struct cdp_run_meta {
    uint8_t uuid[16];
    uint64_t first_seq, last_seq;
    uint32_t first_segment, last_segment;
} cdp_run_meta;
/* This and the merge write path.tmp (and, past 2 M extents, path.fences.tmp), sync it, rename it to path; the caller
 * syncs the directory. Whatever fails, path stays as it was and the other files are removed. Memory: 1.6 MiB, and 4
 * bytes per 64 KiB written. Every seq must lie in the meta's [first_seq, last_seq], first_seq > 0; last < first says
 * that there is none. */
int cdp_run_write_tree(const cdp_os *os, const char *path, const cdp_run_meta *meta, const cdp_tree *t, cdp_status *st);
/* Merge `n` runs (1..CDP_MAX_RUNS), oldest first, of ascending seqs and one volume. Versions whose seq lies in one of
 * the `dropped` intervals (freed by a destructive restore; in any order) are left out. Neighbours that then say the
 * same are joined. */
int cdp_run_merge(const cdp_os *os, const char *path, const cdp_run_meta *meta, cdp_run *const *runs, uint32_t n,
                  const cdp_interval *dropped, uint32_t n_dropped, cdp_status *st);

/* --- lookup ---------------------------------------------------------------------------------------------------- */

typedef struct cdp_piece {
    uint64_t start, end; /* sectors */
    uint64_t loc;        /* of `start`: data, CDP_LOC_ZERO, CDP_LOC_HOLE or CDP_LOC_BASE */
} cdp_piece;

#define CDP_MAX_RUNS 64u
#define CDP_MAX_TREES 64u

/* Pieces of [start, end) at `view`, in order, adjacent ones that continue each other joined, into out[0..cap).
 * `trees` and `runs` newest first; the trees are newer than the runs. Returns the number of pieces; *reached is where
 * they end (== end unless cap or *steps was too small). Negative: -CDP_CORRUPT, st filled.
 * *steps: how many answers may be stitched, at least 1; it comes down by how many were. NULL: as many as there are. An
 * answer that changes nothing is stitched too: the pieces of a range may be few, and the steps many.
 * The trees' part alone (`n_runs` = 0 gives CDP_LOC_BASE where they know nothing) may be done under the lock, and
 * cdp_lookup_runs then refines the CDP_LOC_BASE pieces without it. */
int64_t cdp_lookup(const cdp_view *view, cdp_tree *const *trees, uint32_t n_trees, cdp_run *const *runs,
                   uint32_t n_runs, uint64_t start, uint64_t end, cdp_piece *out, uint64_t cap, uint64_t *steps,
                   uint64_t *reached, cdp_status *st);
/* Copies in[0..n_in), adjacent pieces in order, to out with every CDP_LOC_BASE piece replaced by what the runs know of
 * it, but for versions of seqs up to `floor`. `in` and `out` do not overlap. Returns, *steps and *reached as above. */
int64_t cdp_lookup_runs(const cdp_view *view, cdp_run *const *runs, uint32_t n_runs, uint64_t floor,
                        const cdp_piece *in, uint64_t n_in, cdp_piece *out, uint64_t cap, uint64_t *steps,
                        uint64_t *reached, cdp_status *st);

/* --- lookup of before-images ----------------------------------------------------------------------------------- */

/* As cdp_lookup_runs, by the mirrored rule: a version is what its record overwrote, so what a sector held at seq s is
 * its oldest version after s; CDP_LOC_BASE: nothing overwrote it since, the disk has it. An interval (lo, hi] of the
 * view with older ones below it stands for a restore at lo whose range has not been written back yet: it counts where
 * the sector has any version in it, and the next one down where it has none.
 * Of a view whose pieces have one interval, runs may be asked first, without a lock, and the trees then refine what is
 * left: what was overwritten once does not change its answer. */
int64_t cdp_lookup_before(const cdp_view *view, cdp_tree *const *trees, uint32_t n_trees, cdp_run *const *runs,
                          uint32_t n_runs, const cdp_piece *in, uint64_t n_in, cdp_piece *out, uint64_t cap,
                          uint64_t *steps, uint64_t *reached, cdp_status *st);
/* Which record after `after` was the last to change each sector of [start, end): pieces whose loc is its seq, 0 where
 * there is none. */
int64_t cdp_lookup_seqs(cdp_tree *const *trees, uint32_t n_trees, uint64_t after, uint64_t start, uint64_t end,
                        cdp_piece *out, uint64_t cap, uint64_t *steps, uint64_t *reached, cdp_status *st);

/* --- what changed, and when -------------------------------------------------------------------------------------- */

/* A view that shows, in each sector, the versions that one of the views `a` and `b` shows and the other does not (their
 * intervals, without those that both have). Where it shows none, both show the same: the newest version of a lineage
 * can differ only by one that is not in both. The views are of one volume. free() for *pieces and *intervals; 0 or
 * ENOMEM. */
int cdp_view_changes(const cdp_view *a, const cdp_view *b, cdp_view *out);

typedef struct cdp_history_row { /* what a record gave a range */
    uint64_t seq;
    uint64_t start, end; /* sectors: from the first to the last of the range that it gave a version */
    uint64_t sectors;    /* how many those are */
    uint32_t on_line;    /* 1: the line has it, at least in part */
    uint32_t zero;
} cdp_history_row;

/* The records lo < seq <= hi with a version of a sector in [start, end), ascending, the first `cap` (> 0) of them,
 * added to the *n (<= cap) that `rows`, an array of 2 * cap, has already. `line`: a view. Returns 1 where there are
 * more, 0 where not; negative: -CDP_CORRUPT. The trees' part is done under the lock. */
int cdp_history_of_trees(const cdp_view *line, cdp_tree *const *trees, uint32_t n_trees, uint64_t start, uint64_t end,
                         uint64_t lo, uint64_t hi, cdp_history_row *rows, uint64_t cap, uint64_t *n);
int cdp_history_of_runs(const cdp_view *line, cdp_run *const *runs, uint32_t n_runs, uint64_t start, uint64_t end,
                        uint64_t lo, uint64_t hi, cdp_history_row *rows, uint64_t cap, uint64_t *n, cdp_status *st);

#endif
