/* Writing a run file as a stream: what run_write.c does for the tree and for the merge (run_merge.c).
 *
 * One writer, one thread. Memory: about 1.6 MiB, and 4 bytes per 64 KiB written. */
#ifndef CDP_RUN_WRITER_H
#define CDP_RUN_WRITER_H
#include "index/index.h"

/* Versions of one source; their locations are of a sector `delta` before the extent that they are written for. */
typedef struct cdp_slice {
    const struct cdp_run_version *versions;
    uint64_t n;
    uint64_t delta;
} cdp_slice;

/* A column: slices, oldest first, without the versions whose seq lies in a dropped interval. */
typedef struct cdp_column {
    const cdp_slice *slices;
    const cdp_interval *dropped;
    uint32_t n_slices, n_dropped;
} cdp_column;

typedef struct cdp_run_writer cdp_run_writer;

static inline int cdp_is_dropped(const cdp_column *c, uint64_t seq)
{
    for (uint32_t i = 0; i < c->n_dropped; i++)
        if (c->dropped[i].lo < seq && seq <= c->dropped[i].hi)
            return 1;
    return 0;
}

/* Begins path.tmp, replacing what an earlier attempt left. */
int cdp_run_writer_new(const cdp_os *os, const char *path, const cdp_run_meta *meta, cdp_run_writer **out,
                       cdp_status *st);
/* The next extent, ascending; nothing is written where the column is empty. */
int cdp_run_writer_put(cdp_run_writer *w, uint64_t start, uint64_t end, const cdp_column *column, cdp_status *st);
/* rc == CDP_OK: completes, syncs and renames; otherwise, or if that fails, removes what was written. Frees w. */
int cdp_run_writer_end(cdp_run_writer *w, int rc, cdp_status *st);

#endif
