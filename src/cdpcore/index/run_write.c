/* Writes a run file: see run_writer.h and format.h.
 *
 * Everything but the header goes out in order through one buffer, a whole number of CRC spans long, so that spans are
 * summed as they leave. A block's extents wait in memory while its versions pass; the fences wait in a buffer that
 * spills into a second file when a run has more than 2 M extents. The header, which needs the totals, is written last;
 * no one sees the file before it is synced and renamed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/crc32c.h"
#include "index/run_writer.h"

#define SPAN CDP_RUN_CRC_SPAN
#define BUFFER (16 * SPAN)
#define FENCES 16384u           /* 512 KiB */
#define LONGEST 0xfffffff8ull   /* sectors of an extent; a multiple of 4 KiB below 2^32 */

struct cdp_run_writer {
    const cdp_os *os;
    const char *path;           /* the caller's */
    char *tmp, *spill;          /* names */
    int fd, spill_fd;           /* -1: not open */
    struct cdp_run_header header; /* filled as totals grow */
    uint64_t off;               /* file offset of buf[0] */
    uint64_t used;              /* bytes in buf */
    uint64_t end;               /* of the last extent: the next one begins there or later */
    uint64_t spilled;           /* fences in the spill file */
    uint32_t n_fences;          /* in memory */
    uint64_t n_crcs, cap_crcs;
    uint32_t *crcs;
    uint8_t *buf;
    struct cdp_run_fence *fences;
    struct cdp_run_fence block; /* the open block; n_extents == 0: none */
    struct cdp_run_extent extents[CDP_RUN_BLOCK_EXTENTS];
};

/* --- bytes ----------------------------------------------------------------------------------------------------- */

static int add_crcs(cdp_run_writer *w, cdp_status *st)
{
    for (uint64_t at = 0; at < w->used; at += SPAN) {
        if (w->n_crcs == w->cap_crcs) { /* doubles: once per 256 MiB, 512 MiB, ... */
            uint64_t cap = w->cap_crcs * 2;
            uint32_t *crcs = realloc(w->crcs, cap * sizeof *crcs);
            if (crcs == NULL)
                return cdp_fail(st, CDP_UNAVAILABLE, ENOMEM, 0, "run: memory for checksums");
            w->crcs = crcs;
            w->cap_crcs = cap;
        }
        w->crcs[w->n_crcs++] = cdp_crc32c(0, w->buf + at, w->used - at < SPAN ? w->used - at : SPAN);
    }
    return CDP_OK;
}

static int write_at(cdp_run_writer *w, const void *p, uint64_t n, uint64_t off, cdp_status *st)
{
    int64_t rc = n ? w->os->pwrite(w->os->ctx, w->fd, p, n, off) : 0;
    return rc < 0 ? cdp_fail_os(st, rc, off, "run: write") : CDP_OK;
}

/* Whole buffers only, until the last. */
static int flush(cdp_run_writer *w, cdp_status *st)
{
    int rc = add_crcs(w, st);
    if (rc == CDP_OK)
        rc = write_at(w, w->buf, w->used, w->off, st);
    w->off += w->used;
    w->used = 0;
    return rc;
}

static int put(cdp_run_writer *w, const void *p, uint64_t n, cdp_status *st)
{
    const uint8_t *from = p;
    while (n > 0) {
        uint64_t part = BUFFER - w->used < n ? BUFFER - w->used : n;
        memcpy(w->buf + w->used, from, part);
        w->used += part;
        from += part;
        n -= part;
        if (w->used == BUFFER && flush(w, st) != CDP_OK)
            return st->code;
    }
    return CDP_OK;
}

/* --- fences ---------------------------------------------------------------------------------------------------- */

static int spill_fences(cdp_run_writer *w, cdp_status *st)
{
    const uint64_t off = w->spilled * sizeof *w->fences;
    int64_t rc;
    if (w->spill_fd < 0) {
        w->os->unlink(w->os->ctx, w->spill);
        w->spill_fd = w->os->open(w->os->ctx, w->spill, CDP_OPEN_RDWR | CDP_OPEN_CREATE);
        if (w->spill_fd < 0)
            return cdp_fail_os(st, w->spill_fd, 0, "run: create file for fences");
    }
    rc = w->os->pwrite(w->os->ctx, w->spill_fd, w->fences, w->n_fences * sizeof *w->fences, off);
    if (rc < 0)
        return cdp_fail_os(st, rc, off, "run: write fences");
    w->spilled += w->n_fences;
    w->n_fences = 0;
    return CDP_OK;
}

static int end_block(cdp_run_writer *w, cdp_status *st)
{
    if (w->block.n_extents == 0)
        return CDP_OK;
    if (w->header.n_blocks + 1 == UINT32_MAX)
        return cdp_fail(st, CDP_NOSPACE, 0, w->off, "run: too many blocks");
    w->block.extents_offset = w->off + w->used;
    if (put(w, w->extents, w->block.n_extents * sizeof *w->extents, st) != CDP_OK)
        return st->code;
    w->fences[w->n_fences++] = w->block;
    w->header.n_blocks++;
    w->header.n_extents += w->block.n_extents;
    w->header.n_versions += w->block.n_versions;
    w->block.n_extents = w->block.n_versions = 0;
    return w->n_fences == FENCES ? spill_fences(w, st) : CDP_OK;
}

static int put_fences(cdp_run_writer *w, cdp_status *st)
{
    if (w->spilled > 0 && w->n_fences > 0 && spill_fences(w, st) != CDP_OK)
        return st->code;
    for (uint64_t i = 0; i < w->spilled;) {
        const uint64_t n = w->spilled - i < FENCES ? w->spilled - i : FENCES, bytes = n * sizeof *w->fences;
        int64_t rc = w->os->pread(w->os->ctx, w->spill_fd, w->fences, bytes, i * sizeof *w->fences);
        if (rc < 0)
            return cdp_fail_os(st, rc, i * sizeof *w->fences, "run: read fences back");
        if ((uint64_t)rc != bytes)
            return cdp_fail(st, CDP_UNAVAILABLE, EIO, i * sizeof *w->fences, "run: fences cut off");
        if (put(w, w->fences, bytes, st) != CDP_OK)
            return st->code;
        i += n;
    }
    return put(w, w->fences, w->n_fences * sizeof *w->fences, st); /* those never spilled */
}

/* --- extents --------------------------------------------------------------------------------------------------- */

static uint64_t count(const cdp_column *c)
{
    uint64_t n = 0;
    for (uint32_t s = 0; s < c->n_slices; s++) {
        if (c->n_dropped == 0) {
            n += c->slices[s].n;
            continue;
        }
        for (uint64_t i = 0; i < c->slices[s].n; i++)
            n += !cdp_is_dropped(c, c->slices[s].versions[i].seq);
    }
    return n;
}

static int put_column(cdp_run_writer *w, const cdp_column *c, uint64_t delta, cdp_status *st)
{
    uint64_t least = 0;
    for (uint32_t s = 0; s < c->n_slices; s++) {
        const cdp_slice *slice = &c->slices[s];
        const uint64_t by = slice->delta + delta;
        for (uint64_t i = 0; i < slice->n; i++) {
            struct cdp_run_version v = slice->versions[i];
            if (c->n_dropped > 0 && cdp_is_dropped(c, v.seq))
                continue;
            if (v.seq < w->header.first_seq || v.seq > w->header.last_seq)
                return cdp_fail(st, CDP_INVALID, 0, 0, "run: seq outside the run's");
            if (v.seq < least)
                return cdp_fail(st, CDP_CORRUPT, 0, w->off + w->used, "run: versions out of order");
            least = v.seq + 1;
            v.loc = cdp_loc_add(v.loc, by);
            memcpy(w->buf + w->used, &v, sizeof v); /* fits: the buffer's size and all before are multiples of 16 */
            w->used += sizeof v;
            if (w->used == BUFFER && flush(w, st) != CDP_OK)
                return st->code;
        }
    }
    return CDP_OK;
}

int cdp_run_writer_put(cdp_run_writer *w, uint64_t start, uint64_t end, const cdp_column *column, cdp_status *st)
{
    const uint64_t n = count(column), first = start;
    if (n == 0)
        return CDP_OK;
    if (n > UINT32_MAX)
        return cdp_fail(st, CDP_NOSPACE, 0, start, "run: more than 2^32 - 1 versions of one sector");
    if (start < w->end || start >= end || end > CDP_MAX_SECTORS)
        return cdp_fail(st, CDP_INVALID, 0, start, "run: extents out of order");
    for (w->end = end; start < end;) {
        const uint64_t sectors = end - start < LONGEST ? end - start : LONGEST;
        if ((w->block.n_extents == CDP_RUN_BLOCK_EXTENTS || n > UINT32_MAX - w->block.n_versions)
            && end_block(w, st) != CDP_OK)
            return st->code;
        if (w->block.n_extents == 0) {
            w->block.start = start;
            w->block.versions_offset = w->off + w->used;
        }
        w->extents[w->block.n_extents++] = (struct cdp_run_extent){start, (uint32_t)sectors, w->block.n_versions};
        w->block.n_versions += (uint32_t)n;
        if (put_column(w, column, start - first, st) != CDP_OK)
            return st->code;
        start += sectors;
    }
    return CDP_OK;
}

/* --- life ------------------------------------------------------------------------------------------------------ */

static char *name(const char *path, const char *suffix)
{
    const size_t n = strlen(path), m = strlen(suffix);
    char *s = malloc(n + m + 1);
    if (s != NULL) {
        memcpy(s, path, n);
        memcpy(s + n, suffix, m + 1);
    }
    return s;
}

static void free_writer(cdp_run_writer *w)
{
    free(w->tmp);
    free(w->spill);
    free(w->crcs);
    free(w->buf);
    free(w->fences);
    free(w);
}

int cdp_run_writer_new(const cdp_os *os, const char *path, const cdp_run_meta *meta, cdp_run_writer **out,
                       cdp_status *st)
{
    cdp_run_writer *w = calloc(1, sizeof *w);
    int rc;
    *out = NULL;
    if (w == NULL)
        return cdp_fail(st, CDP_UNAVAILABLE, ENOMEM, 0, "run: memory");
    w->os = os;
    w->path = path;
    w->spill_fd = -1;
    w->cap_crcs = 4096;
    w->tmp = name(path, ".tmp");
    w->spill = name(path, ".fences.tmp");
    w->crcs = malloc(w->cap_crcs * sizeof *w->crcs);
    w->buf = malloc(BUFFER);
    w->fences = malloc(FENCES * sizeof *w->fences);
    w->off = CDP_BLOCK;
    w->header = (struct cdp_run_header){
        .magic = CDP_RUN_MAGIC, .version = CDP_FORMAT_VERSION, .first_seq = meta->first_seq, .last_seq = meta->last_seq,
        .first_segment = meta->first_segment, .last_segment = meta->last_segment,
    };
    memcpy(w->header.volume_uuid, meta->uuid, 16);
    if (!w->tmp || !w->spill || !w->crcs || !w->buf || !w->fences) {
        rc = cdp_fail(st, CDP_UNAVAILABLE, ENOMEM, 0, "run: memory");
    } else if (meta->first_segment > meta->last_segment || meta->first_seq == 0) {
        rc = cdp_fail(st, CDP_INVALID, 0, 0, "run: segments or seqs");
    } else {
        os->unlink(os->ctx, w->tmp);
        w->fd = os->open(os->ctx, w->tmp, CDP_OPEN_RDWR | CDP_OPEN_CREATE);
        rc = w->fd < 0 ? cdp_fail_os(st, w->fd, 0, "run: create") : CDP_OK;
    }
    if (rc != CDP_OK) {
        free_writer(w);
        return rc;
    }
    *out = w;
    return CDP_OK;
}

static int complete(cdp_run_writer *w, cdp_status *st)
{
    struct cdp_run_header *h = &w->header;
    int rc;
    if ((rc = end_block(w, st)) != CDP_OK)
        return rc;
    h->fences_offset = w->off + w->used;
    if ((rc = put_fences(w, st)) != CDP_OK || (rc = flush(w, st)) != CDP_OK)
        return rc;
    h->crcs_offset = w->off;
    h->file_bytes = h->crcs_offset + w->n_crcs * 4;
    h->crcs_crc = cdp_crc32c(0, w->crcs, w->n_crcs * 4);
    memset(w->buf, 0, CDP_BLOCK);
    memcpy(w->buf, h, sizeof *h);
    h->crc = cdp_crc32c(0, w->buf, CDP_BLOCK);
    memcpy(w->buf, h, sizeof *h);
    if ((rc = write_at(w, w->crcs, w->n_crcs * 4, h->crcs_offset, st)) != CDP_OK
        || (rc = write_at(w, w->buf, CDP_BLOCK, 0, st)) != CDP_OK)
        return rc;
    rc = w->os->datasync(w->os->ctx, w->fd);
    return rc < 0 ? cdp_fail_os(st, rc, 0, "run: sync") : CDP_OK;
}

int cdp_run_writer_end(cdp_run_writer *w, int rc, cdp_status *st)
{
    const cdp_os *os = w->os;
    int e;
    if (rc == CDP_OK)
        rc = complete(w, st);
    if ((e = os->close(os->ctx, w->fd)) < 0 && rc == CDP_OK)
        rc = cdp_fail_os(st, e, 0, "run: close");
    if (w->spill_fd >= 0) {
        os->close(os->ctx, w->spill_fd);
        os->unlink(os->ctx, w->spill);
    }
    if (rc == CDP_OK && (e = os->rename(os->ctx, w->tmp, w->path)) < 0)
        rc = cdp_fail_os(st, e, 0, "run: rename");
    if (rc != CDP_OK)
        os->unlink(os->ctx, w->tmp);
    free_writer(w);
    return rc;
}

/* --- the tree's run -------------------------------------------------------------------------------------------- */

int cdp_run_write_tree(const cdp_os *os, const char *path, const cdp_run_meta *meta, const cdp_tree *t, cdp_status *st)
{
    const struct cdp_run_version *versions;
    uint64_t start, end, n;
    cdp_run_writer *w;
    cdp_tree_iter it;
    int rc = cdp_run_writer_new(os, path, meta, &w, st);
    if (rc != CDP_OK)
        return rc;
    cdp_tree_iter_init(&it, t);
    while (rc == CDP_OK && cdp_tree_iter_next(&it, &start, &end, &versions, &n)) {
        const cdp_slice slice = {versions, n, 0};
        const cdp_column column = {&slice, NULL, 1, 0};
        rc = cdp_run_writer_put(w, start, end, &column, st);
    }
    return cdp_run_writer_end(w, rc, st);
}
