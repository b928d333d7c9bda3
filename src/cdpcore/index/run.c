/* A run: the immutable, mapped index of a span of segments: opening, searching, checking. See index.h and format.h.
 *
 * Nothing in the file is believed: the header, the CRC table and the fences are checked when it is opened, every other
 * CRC span when something first reads from it (one bit per span remembers that: a look-up pays 3 us once per 64 KiB),
 * and counts and places are checked against their bounds at each use, whatever the CRCs say. A wrong file gives
 * CDP_CORRUPT, never a read outside the mapping or an endless loop.
 *
 * Search: the fences' first sectors, packed in memory (8 bytes per 128 extents), then the block's extents, then the
 * column: three binary searches. */
#include <errno.h>
#include <stdlib.h>
#include "base/crc32c.h"
#include "index/index_impl.h"

#define EXTENTS CDP_RUN_BLOCK_EXTENTS
#define SPAN CDP_RUN_CRC_SPAN

static int corrupt(cdp_status *st, uint64_t offset, const char *where)
{
    return cdp_fail(st, CDP_CORRUPT, 0, offset, where);
}

static int mismatch(cdp_status *st, uint64_t offset, uint64_t expected, uint64_t actual, const char *where)
{
    cdp_fail(st, CDP_CORRUPT, 0, offset, where);
    st->expected = expected;
    st->actual = actual;
    return CDP_CORRUPT;
}

/* --- opening --------------------------------------------------------------------------------------------------- */

static int check_header(const struct cdp_run_header *h, uint64_t file_bytes, const uint8_t uuid[16],
                        const uint8_t *page, cdp_status *st)
{
    static const uint8_t no_crc[4];
    const uint64_t at_crc = offsetof(struct cdp_run_header, crc);
    uint32_t crc = cdp_crc32c(0, page, at_crc);
    crc = cdp_crc32c(crc, no_crc, 4);
    crc = cdp_crc32c(crc, page + at_crc + 4, CDP_BLOCK - at_crc - 4);
    if (h->magic != CDP_RUN_MAGIC)
        return mismatch(st, 0, CDP_RUN_MAGIC, h->magic, "run: not a run file");
    if (h->crc != crc)
        return mismatch(st, at_crc, h->crc, crc, "run: header checksum");
    if (h->version != CDP_FORMAT_VERSION)
        return mismatch(st, offsetof(struct cdp_run_header, version), CDP_FORMAT_VERSION, h->version,
                        "run: version not known");
    if (h->flags != 0)
        return mismatch(st, offsetof(struct cdp_run_header, flags), 0, h->flags, "run: flags not known");
    if (uuid != NULL && memcmp(h->volume_uuid, uuid, 16) != 0)
        return corrupt(st, offsetof(struct cdp_run_header, volume_uuid), "run: of another volume");
    if (h->file_bytes != file_bytes)
        return mismatch(st, offsetof(struct cdp_run_header, file_bytes), h->file_bytes, file_bytes, "run: file size");
    if (h->first_segment > h->last_segment)
        return corrupt(st, offsetof(struct cdp_run_header, first_segment), "run: segments out of order");
    /* Each term is compared with what is left of the file, so nothing can wrap. */
    if (h->crcs_offset > file_bytes || h->fences_offset < CDP_BLOCK || h->fences_offset > h->crcs_offset
        || h->fences_offset % 16 != 0 || h->n_blocks >= UINT32_MAX
        || h->n_blocks != (h->crcs_offset - h->fences_offset) / sizeof(struct cdp_run_fence)
        || (h->crcs_offset - h->fences_offset) % sizeof(struct cdp_run_fence) != 0
        || (file_bytes - h->crcs_offset) % 4 != 0
        || (file_bytes - h->crcs_offset) / 4 != (h->crcs_offset - CDP_BLOCK + SPAN - 1) / SPAN)
        return corrupt(st, offsetof(struct cdp_run_header, n_blocks), "run: layout");
    if (h->n_extents > h->n_blocks * EXTENTS || h->n_extents > h->n_versions
        || (h->n_extents + h->n_versions) != (h->fences_offset - CDP_BLOCK) / 16
        || h->first_seq == 0 || (h->n_extents > 0 && h->first_seq > h->last_seq))
        return corrupt(st, offsetof(struct cdp_run_header, n_extents), "run: counts");
    return CDP_OK;
}

/* Blocks follow one another without gaps, fences ascend, counts add up to the header's. */
static int check_fences(const cdp_run *r, cdp_status *st)
{
    const struct cdp_run_header *h = &r->header;
    uint64_t at = CDP_BLOCK, n_extents = 0, n_versions = 0;
    for (uint64_t i = 0; i < h->n_blocks; i++) {
        const struct cdp_run_fence *f = &r->fences[i];
        const uint64_t off = h->fences_offset + i * sizeof *f;
        const uint64_t versions_bytes = (uint64_t)f->n_versions * sizeof(struct cdp_run_version);
        if (f->n_extents == 0 || f->n_extents > EXTENTS || f->n_versions < f->n_extents)
            return corrupt(st, off, "run: fence counts");
        if (f->versions_offset != at || f->extents_offset != at + versions_bytes)
            return corrupt(st, off, "run: fence place");
        at += versions_bytes + f->n_extents * sizeof(struct cdp_run_extent);
        if (at > h->fences_offset)
            return corrupt(st, off, "run: block past its end");
        if (f->start >= CDP_MAX_SECTORS || (i > 0 && f->start <= f[-1].start))
            return corrupt(st, off, "run: fence order");
        n_extents += f->n_extents;
        n_versions += f->n_versions;
    }
    if (at != h->fences_offset || n_extents != h->n_extents || n_versions != h->n_versions)
        return corrupt(st, h->fences_offset, "run: fence totals");
    return CDP_OK;
}

static int check_open(cdp_run *r, const uint8_t uuid[16], cdp_status *st)
{
    struct cdp_run_header *h = &r->header;
    uint32_t crc;
    int rc;
    if (r->map_bytes < CDP_BLOCK)
        return corrupt(st, 0, "run: shorter than its header");
    memcpy(h, r->map, sizeof *h);
    if ((rc = check_header(h, r->map_bytes, uuid, r->map, st)) != CDP_OK)
        return rc;
    r->fences = (const struct cdp_run_fence *)(r->map + h->fences_offset);
    r->crcs = (const uint32_t *)(r->map + h->crcs_offset);
    r->n_spans = (h->crcs_offset - CDP_BLOCK + SPAN - 1) / SPAN;
    crc = cdp_crc32c(0, r->crcs, r->n_spans * 4);
    if (crc != h->crcs_crc)
        return mismatch(st, h->crcs_offset, h->crcs_crc, crc, "run: checksum table");
    r->checked = calloc(r->n_spans / 64 + 1, sizeof *r->checked);
    r->starts = malloc((h->n_blocks + 1) * sizeof *r->starts);
    r->places = malloc((h->n_blocks + 1) * sizeof *r->places);
    if (r->checked == NULL || r->starts == NULL || r->places == NULL)
        return cdp_fail(st, CDP_UNAVAILABLE, ENOMEM, 0, "run: memory");
    rc = cdp_run_check_spans(r, h->fences_offset, h->n_blocks * sizeof *r->fences, st);
    if (rc == CDP_OK)
        rc = check_fences(r, st);
    for (uint64_t i = 0; rc == CDP_OK && i < h->n_blocks; i++) {
        r->starts[i] = r->fences[i].start;
        r->places[i] = (struct cdp_run_place){r->fences[i].versions_offset, r->fences[i].extents_offset};
    }
    r->places[h->n_blocks] = (struct cdp_run_place){h->fences_offset, h->fences_offset};
    return rc;
}

int cdp_run_open(const cdp_os *os, const char *path, const uint8_t uuid[16], cdp_run **out, cdp_status *st)
{
    cdp_run *r;
    void *map = NULL;
    int64_t size;
    int rc, fd;
    *out = NULL;
    if ((r = calloc(1, sizeof *r)) == NULL)
        return cdp_fail(st, CDP_UNAVAILABLE, ENOMEM, 0, "run: memory");
    r->os = os;
    if ((fd = os->open(os->ctx, path, CDP_OPEN_RDONLY | CDP_OPEN_RANDOM)) < 0) {
        free(r);
        return cdp_fail_os(st, fd, 0, "run: open");
    }
    if ((size = os->size(os->ctx, fd)) < 0) {
        rc = cdp_fail_os(st, size, 0, "run: size");
    } else if (size == 0) { /* cannot be mapped */
        rc = corrupt(st, 0, "run: empty file");
    } else if ((rc = os->map(os->ctx, fd, (uint64_t)size, &map)) < 0) {
        rc = cdp_fail_os(st, rc, 0, "run: map");
    } else {
        r->map = map;
        r->map_bytes = (uint64_t)size;
        rc = check_open(r, uuid, st);
    }
    os->close(os->ctx, fd); /* the mapping stays */
    if (rc != CDP_OK) {
        cdp_run_close(r);
        return rc;
    }
    *out = r;
    return CDP_OK;
}

void cdp_run_close(cdp_run *r)
{
    if (r == NULL)
        return;
    if (r->map != NULL)
        r->os->unmap(r->os->ctx, (void *)r->map, r->map_bytes);
    free(r->starts);
    free(r->places);
    free((void *)r->checked);
    free(r);
}

const struct cdp_run_header *cdp_run_header_of(const cdp_run *r)
{
    return &r->header;
}

/* --- blocks ---------------------------------------------------------------------------------------------------- */

static int check_span(const cdp_run *r, uint64_t span, cdp_status *st)
{
    const uint64_t begin = CDP_BLOCK + span * SPAN;
    const uint64_t n = r->header.crcs_offset - begin < SPAN ? r->header.crcs_offset - begin : SPAN;
    const uint32_t crc = cdp_crc32c(0, r->map + begin, n);
    if (crc != r->crcs[span])
        return mismatch(st, begin, r->crcs[span], crc, "run: checksum");
    atomic_fetch_or_explicit(&r->checked[span / 64], 1ull << span % 64, memory_order_relaxed);
    return CDP_OK;
}

int cdp_run_check_spans(const cdp_run *r, uint64_t off, uint64_t n, cdp_status *st)
{
    uint64_t span = (off - CDP_BLOCK) / SPAN, last = (off + n - 1 - CDP_BLOCK) / SPAN;
    if (n == 0)
        return CDP_OK;
    for (; span <= last; span++) {
        if (atomic_load_explicit(&r->checked[span / 64], memory_order_relaxed) >> span % 64 & 1)
            continue;
        if (check_span(r, span, st) != CDP_OK)
            return CDP_CORRUPT;
    }
    return CDP_OK;
}

/* The fences were checked and copied at open, so the block lies in the mapping whatever the file says now. */
static inline void block_at(const cdp_run *r, uint64_t block, cdp_run_block *b)
{
    const struct cdp_run_place *p = &r->places[block];
    b->versions_offset = p->versions_offset;
    b->extents_offset = p->extents_offset;
    b->n_versions = (uint32_t)((p->extents_offset - p->versions_offset) / sizeof(struct cdp_run_version));
    b->n_extents = (uint32_t)((p[1].versions_offset - p->extents_offset) / sizeof(struct cdp_run_extent));
    b->versions = (const struct cdp_run_version *)(r->map + p->versions_offset);
    b->extents = (const struct cdp_run_extent *)(r->map + p->extents_offset);
}

int cdp_run_block_at(const cdp_run *r, uint64_t block, cdp_run_block *b, cdp_status *st)
{
    block_at(r, block, b);
    return cdp_run_check_spans(r, b->extents_offset, b->n_extents * sizeof(struct cdp_run_extent), st);
}

/* The column of extent i: versions [*first, *last) of the block. */
static inline int column_of(const cdp_run_block *b, uint32_t i, uint32_t *first, uint32_t *last, cdp_status *st)
{
    *first = b->extents[i].first_version;
    *last = i + 1 < b->n_extents ? b->extents[i + 1].first_version : b->n_versions;
    if (*first >= *last || *last > b->n_versions)
        return corrupt(st, b->extents_offset + i * sizeof(struct cdp_run_extent), "run: column bounds");
    return CDP_OK;
}

/* --- searching ------------------------------------------------------------------------------------------------- */

/* The number of versions in [first, last) with seq <= hi. Checks the CRC of every span that it reads. */
static int count_versions(const cdp_run *r, const cdp_run_block *b, uint32_t first, uint32_t last, uint64_t hi,
                          uint32_t *count, cdp_status *st)
{
    uint32_t lo = first;
    while (lo < last) {
        uint32_t mid = lo + (last - lo) / 2;
        if (cdp_run_check_spans(r, b->versions_offset + (uint64_t)mid * 16, 16, st) != CDP_OK)
            return CDP_CORRUPT;
        if (b->versions[mid].seq <= hi)
            lo = mid + 1;
        else
            last = mid;
    }
    *count = lo - first;
    return CDP_OK;
}

static int find_version(const cdp_run *r, const cdp_run_block *b, uint32_t i, uint64_t delta, const cdp_interval *iv,
                        uint32_t n_iv, cdp_hit *hit, cdp_status *st)
{
    uint32_t first, last, n;
    if (column_of(b, i, &first, &last, st) != CDP_OK)
        return CDP_CORRUPT;
    if (n_iv == CDP_OLDEST) {
        const struct cdp_run_version *v;
        if (count_versions(r, b, first, last, iv->lo, &n, st) != CDP_OK)
            return CDP_CORRUPT;
        v = &b->versions[first + n];
        if (first + n == last || v->seq > iv->hi)
            return CDP_OK;
        hit->found = 1;
        hit->seq = v->seq;
        hit->loc = cdp_loc_add(v->loc, delta);
        return CDP_OK;
    }
    for (uint32_t k = 0; k < n_iv && first < last; k++) {
        if (count_versions(r, b, first, last, iv[k].hi, &n, st) != CDP_OK)
            return CDP_CORRUPT;
        last = first + n; /* the next interval is older */
        if (n > 0) {
            const struct cdp_run_version *v = &b->versions[last - 1]; /* the search read it: its span is checked */
            if (v->seq > iv[k].lo) {
                hit->found = 1;
                hit->seq = v->seq;
                hit->loc = cdp_loc_add(v->loc, delta);
                return CDP_OK;
            }
        }
    }
    return CDP_OK;
}

/* The last of the n extents that starts at or before `sector`, or 0: doubling steps away from `guess`, then halving. */
static uint32_t find_extent(const struct cdp_run_extent *e, uint32_t n, uint64_t sector, uint32_t guess)
{
    uint32_t lo = 0, hi = n, step = 1;
    if (e[guess].start <= sector) {
        for (lo = guess; lo + step < n; step *= 2) {
            if (e[lo + step].start > sector) {
                hi = lo + step;
                break;
            }
            lo += step;
        }
    } else {
        for (hi = guess; hi > step; step *= 2) {
            if (e[hi - step].start <= sector) {
                lo = hi - step;
                break;
            }
            hi -= step;
        }
    }
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (e[mid].start <= sector)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* A place in the block as if its extents were spread evenly over its sectors; loads start there while other work goes
 * on. With halving alone a search met four or five of a block's 32 cache lines one after the other: 0.9 us instead of
 * 0.5 for a look-up in 10 M records. */
static uint32_t guess_extent(const cdp_run *r, uint64_t block, uint64_t sector)
{
    const uint64_t start = r->starts[block];
    uint32_t guess;
    cdp_run_block b;
    block_at(r, block, &b);
    if (block + 1 < r->header.n_blocks)
        guess = (uint32_t)((double)(sector - start) / (double)(r->starts[block + 1] - start) * b.n_extents);
    else
        guess = b.n_extents / 2;
    guess = guess < b.n_extents ? guess : b.n_extents - 1;
    __builtin_prefetch(&b.extents[guess]);
    __builtin_prefetch(&b.versions[(uint64_t)guess * b.n_versions / b.n_extents]);
    return guess;
}

int cdp_run_seek(const cdp_run *r, uint64_t sector, cdp_place *place)
{
    const uint64_t n = r->header.n_blocks;
    uint64_t block = place->group;
    if (block < n && r->starts[block] <= sector && (block + 1 == n || sector < r->starts[block + 1]))
        return 1;
    if (n == 0 || sector < r->starts[0])
        return 0;
    block = cdp_last_le(r->starts, n, sector);
    *place = (cdp_place){(uint32_t)block, guess_extent(r, block, sector)};
    return 1;
}

/* In the block that `place` names; its slot is a guess. */
static int find_in_block(const cdp_run *r, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit,
                         cdp_place *place, cdp_status *st)
{
    const uint64_t block = place->group, end = block + 1 < r->header.n_blocks ? r->starts[block + 1] : UINT64_MAX;
    const struct cdp_run_extent *e;
    cdp_run_block b;
    uint64_t next;
    uint32_t i;
    if (cdp_run_block_at(r, block, &b, st) != CDP_OK)
        return CDP_CORRUPT;
    i = find_extent(b.extents, b.n_extents, sector, place->slot < b.n_extents ? place->slot : b.n_extents - 1);
    e = &b.extents[i];
    next = i + 1 < b.n_extents ? e[1].start : end;
    if (e->start > sector || next <= sector)
        return corrupt(st, b.extents_offset + i * sizeof *e, "run: extent order");
    place->slot = i + 1; /* where a look-up goes on */
    if (sector - e->start >= e->sectors) {
        hit->until = next;
        return CDP_OK;
    }
    hit->until = e->start + e->sectors;
    if (hit->until > next)
        return corrupt(st, b.extents_offset + i * sizeof *e, "run: extents overlap");
    return find_version(r, &b, i, sector - e->start, iv, n_iv, hit, st);
}

int cdp_run_find_near(const cdp_run *r, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit,
                      cdp_place *place, cdp_status *st)
{
    hit->found = 0;
    hit->seq = hit->loc = 0;
    if (!cdp_run_seek(r, sector, place)) {
        hit->until = r->header.n_blocks > 0 ? r->starts[0] : UINT64_MAX;
        return CDP_OK;
    }
    if (find_in_block(r, sector, iv, n_iv, hit, place, st) == CDP_OK)
        return CDP_OK;
    hit->found = 0;
    hit->until = sector + 1;
    return CDP_CORRUPT;
}

int cdp_run_find(const cdp_run *r, uint64_t sector, const cdp_interval *iv, uint32_t n_iv, cdp_hit *hit, cdp_status *st)
{
    cdp_place place = CDP_NO_PLACE;
    return cdp_run_find_near(r, sector, iv, n_iv, hit, &place, st);
}

/* --- walking --------------------------------------------------------------------------------------------------- */

void cdp_run_cursor_init(cdp_run_cursor *c, const cdp_run *r)
{
    memset(c, 0, sizeof *c);
    c->run = r;
}

int cdp_run_cursor_next(cdp_run_cursor *c, cdp_status *st)
{
    const struct cdp_run_extent *e;
    const uint64_t previous_end = c->end;
    uint32_t first, last;
    if (c->next_extent == c->block.n_extents) { /* both 0 at first */
        if (c->next_block == c->run->header.n_blocks) {
            c->start = c->end = UINT64_MAX;
            return CDP_OK;
        }
        if (cdp_run_block_at(c->run, c->next_block, &c->block, st) != CDP_OK
            || cdp_run_check_spans(c->run, c->block.versions_offset, (uint64_t)c->block.n_versions * 16, st) != CDP_OK)
            return CDP_CORRUPT;
        c->next_block++;
        c->next_extent = 0;
        if (c->block.extents[0].start != c->run->starts[c->next_block - 1] || c->block.extents[0].first_version != 0)
            return corrupt(st, c->block.extents_offset, "run: block's first extent");
    }
    e = &c->block.extents[c->next_extent];
    if (e->sectors == 0 || e->start < previous_end || e->start >= CDP_MAX_SECTORS
        || e->sectors > CDP_MAX_SECTORS - e->start)
        return corrupt(st, c->block.extents_offset + c->next_extent * sizeof *e, "run: extent order");
    if (column_of(&c->block, c->next_extent, &first, &last, st) != CDP_OK)
        return CDP_CORRUPT;
    c->next_extent++;
    c->start = e->start;
    c->end = e->start + e->sectors;
    c->versions = c->block.versions + first;
    c->n_versions = last - first;
    return CDP_OK;
}

int cdp_run_verify(const cdp_run *r, cdp_status *st)
{
    const struct cdp_run_header *h = &r->header;
    cdp_run_cursor c;
    int rc;
    if ((rc = check_header(h, r->map_bytes, NULL, r->map, st)) != CDP_OK)
        return rc;
    for (uint64_t i = sizeof *h; i < CDP_BLOCK; i++)
        if (r->map[i] != 0)
            return corrupt(st, i, "run: header padding");
    if (cdp_crc32c(0, r->crcs, r->n_spans * 4) != h->crcs_crc)
        return corrupt(st, h->crcs_offset, "run: checksum table");
    for (uint64_t span = 0; span < r->n_spans; span++) /* all of them, also those already found right */
        if (check_span(r, span, st) != CDP_OK)
            return CDP_CORRUPT;
    if ((rc = check_fences(r, st)) != CDP_OK)
        return rc;
    cdp_run_cursor_init(&c, r);
    for (;;) {
        uint64_t before = 0;
        if ((rc = cdp_run_cursor_next(&c, st)) != CDP_OK)
            return rc;
        if (c.start == UINT64_MAX)
            return CDP_OK;
        for (uint64_t i = 0; i < c.n_versions; i++) {
            const struct cdp_run_version *v = &c.versions[i];
            if ((i > 0 && v->seq <= before) || v->seq < h->first_seq || v->seq > h->last_seq)
                return corrupt(st, (uint64_t)((const uint8_t *)v - r->map), "run: version order");
            if (!cdp_loc_is_data(v->loc) && v->loc != CDP_LOC_ZERO && v->loc != CDP_LOC_HOLE
                && v->loc != CDP_LOC_UNKNOWN)
                return corrupt(st, (uint64_t)((const uint8_t *)v - r->map), "run: version's location");
            before = v->seq;
        }
    }
}
