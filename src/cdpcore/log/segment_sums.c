#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/crc32c.h"
#include "base/zeros.h"
#include "log/block_sums.h"
#include "log/frame.h"
#include "log/segment.h"
#include "log/segment_sums.h"

typedef struct source {
    const cdp_os *os;
    int fd;
    uint32_t number;
    uint64_t file_bytes, salt, end; /* end: of the frames */
    int sealed;                     /* the trailer is valid */
    struct cdp_segment_trailer trailer;
} source;

static int64_t load(const source *s, void *buf, uint64_t n, uint64_t off)
{
    int64_t got = s->os->pread(s->os->ctx, s->fd, buf, n, off);
    return got < 0 || (uint64_t)got == n ? got : -EIO;
}

/* From the trailer; where that is damaged, from the header. */
static int find_ends(source *s, cdp_status *st)
{
    uint8_t block[CDP_BLOCK];
    struct cdp_segment_header h;
    int64_t rc = s->os->size(s->os->ctx, s->fd);
    if (rc < 0)
        return cdp_fail_os(st, rc, 0, "size of a log segment");
    s->file_bytes = (uint64_t)rc / CDP_BLOCK * CDP_BLOCK;
    if (s->file_bytes < 2 * CDP_BLOCK)
        return cdp_fail(st, CDP_CORRUPT, 0, s->file_bytes, "a log segment ends before its data");
    rc = load(s, block, CDP_BLOCK, s->file_bytes - CDP_BLOCK);
    if (rc < 0)
        return cdp_fail_os(st, rc, s->file_bytes - CDP_BLOCK, "reading a segment trailer");
    struct cdp_segment_trailer *t = &s->trailer;
    s->sealed = cdp_segment_trailer_get(block, t) && t->segment == s->number &&
                t->directory_offset <= s->file_bytes - CDP_BLOCK && t->sums_offset <= s->file_bytes - CDP_BLOCK &&
                t->n_frames <= (s->file_bytes - CDP_BLOCK - t->directory_offset) / sizeof(struct cdp_frame_entry);
    if (s->sealed) {
        s->salt = t->salt;
        s->end = t->directory_offset;
        return CDP_OK;
    }
    rc = load(s, block, CDP_BLOCK, 0);
    if (rc < 0)
        return cdp_fail_os(st, rc, 0, "reading a segment header");
    if (!cdp_segment_header_get(block, &h) || h.segment != s->number)
        return cdp_fail(st, CDP_CORRUPT, 0, 0, "a log segment has neither a valid header nor a valid trailer");
    s->salt = h.salt;
    s->end = s->file_bytes;
    return CDP_OK;
}

/* 1: it is valid. */
static int load_page(const source *s, int fd, uint64_t at, uint64_t page, uint64_t salt, uint32_t *sums)
{
    uint8_t block[CDP_BLOCK];
    int64_t got = s->os->pread(s->os->ctx, fd, block, CDP_BLOCK, at);
    if (got != CDP_BLOCK || !cdp_sums_page_ok(block, page, salt))
        return 0;
    memcpy(sums, block, 4 * CDP_SUMS_PER_PAGE);
    return 1;
}

/* From the file beside the segment. 1: it is there, and the page valid. */
static int load_beside(const source *s, const char *path, uint64_t page, uint32_t *sums)
{
    uint8_t block[CDP_BLOCK];
    struct cdp_sums_header h;
    int fd = s->os->open(s->os->ctx, path, CDP_OPEN_RDONLY | CDP_OPEN_RANDOM);
    if (fd < 0)
        return 0;
    int ok = s->os->pread(s->os->ctx, fd, block, CDP_BLOCK, 0) == CDP_BLOCK && cdp_sums_header_get(block, &h) &&
             h.segment == s->number && h.salt == s->salt && cdp_sums_load(s->os, fd, &h, page, sums);
    s->os->close(s->os->ctx, fd);
    return ok;
}

/* --- from the frames --------------------------------------------------------------------------------------------- */

typedef struct blocks { /* the page's, from block `first` on */
    uint64_t first, end;
    uint32_t *sums;
    uint8_t state[CDP_SUMS_PER_PAGE]; /* BAD, or as found in a valid frame */
} blocks;
enum { UNKNOWN, GOOD, BAD };

static void put_blocks(blocks *b, uint64_t block, const uint8_t *p, uint64_t n)
{
    for (; n; n -= CDP_BLOCK, p += CDP_BLOCK, block++)
        if (block >= b->first && block < b->end) {
            b->sums[block - b->first] = cdp_crc32c(0, p, CDP_BLOCK);
            b->state[block - b->first] = GOOD;
        }
}

static void mark_bad(blocks *b, uint64_t block, uint64_t end)
{
    for (; block < end; block++)
        if (block >= b->first && block < b->end)
            b->state[block - b->first] = BAD;
}

/* What a destructive restore discarded was punched out in whole blocks: those are bad, but nothing asks for them, and
 * the blocks at its edges have data of other records. Otherwise all blocks with data of the descriptor are. */
static void mark_data(blocks *b, const cdp_frame_reader *r, const struct cdp_record_desc *d)
{
    uint64_t at = (uint64_t)d->data_sector * CDP_SECTOR, end = at + d->data_bytes;
    uint64_t inner = (at + CDP_BLOCK - 1) / CDP_BLOCK, inner_end = end / CDP_BLOCK;
    if (inner < inner_end &&
        cdp_is_zero(r->data + (inner * CDP_BLOCK - r->data_off), (inner_end - inner) * CDP_BLOCK))
        mark_bad(b, inner, inner_end);
    else
        mark_bad(b, at / CDP_BLOCK, (end + CDP_BLOCK - 1) / CDP_BLOCK);
}

static int put_frame(blocks *b, cdp_frame_reader *r, cdp_status *st)
{
    uint64_t block = r->frame_off / CDP_BLOCK, data = r->head.data_bytes / CDP_BLOCK;
    int rc = cdp_frame_reader_load(r, st);
    if (rc < 0)
        return rc;
    put_blocks(b, block, r->meta, CDP_BLOCK);
    put_blocks(b, block + 1 + data, r->meta + CDP_BLOCK, r->head.tail_bytes);
    if (rc == 0)
        return 1;
    put_blocks(b, block + 1, r->data, r->head.data_bytes);
    for (uint32_t i = 0; i < r->head.n_desc; i++) {
        rc = cdp_frame_reader_data_ok(r, i, st);
        if (rc < 0)
            return rc;
        if (rc == 0)
            mark_data(b, r, cdp_frame_reader_desc(r, i));
    }
    return 1;
}

/* The directory; NULL where it cannot be read or is damaged. */
static struct cdp_frame_entry *load_directory(const source *s)
{
    const uint64_t n = s->sealed ? s->trailer.n_frames * sizeof(struct cdp_frame_entry) : 0;
    struct cdp_frame_entry *e = n ? malloc(n) : NULL;
    if (e && (load(s, e, n, s->trailer.directory_offset) < 0 || cdp_crc32c(0, e, n) != s->trailer.directory_crc)) {
        free(e);
        return NULL;
    }
    return e;
}

static int walk_frames(const source *s, blocks *b, cdp_status *st)
{
    cdp_frame_reader r;
    struct cdp_frame_entry *entries = load_directory(s);
    uint32_t k = 0;
    int rc = cdp_frame_reader_init(&r, s->os, s->fd, s->number, s->salt, s->end, 0);
    if (rc) {
        free(entries);
        return cdp_fail_os(st, -ENOMEM, 0, "reading a log segment");
    }
    if (entries) { /* the last frame that begins at or before the page's first block */
        uint32_t lo = 0, hi = s->trailer.n_frames;
        while (lo < hi) {
            uint32_t mid = lo + (hi - lo) / 2;
            if (entries[mid].offset_blocks <= b->first)
                lo = mid + 1;
            else
                hi = mid;
        }
        k = lo ? lo - 1 : 0;
        r.off = (uint64_t)entries[k].offset_blocks * CDP_BLOCK;
        r.frame = k;
    }
    rc = CDP_OK;
    while (rc == CDP_OK && r.off < b->end * CDP_BLOCK) {
        int found = cdp_frame_reader_next(&r, 0, st);
        if (found == 1 && r.off > b->first * CDP_BLOCK)
            found = put_frame(b, &r, st);
        k++;
        if (found < 0)
            rc = -found;
        else if (found == 0) { /* a damaged frame: its blocks are unknown; the directory leads to the next */
            if (!entries || k >= s->trailer.n_frames)
                break;
            r.off = (uint64_t)entries[k].offset_blocks * CDP_BLOCK;
            r.frame = k;
            r.expect_seq = 0;
        }
    }
    cdp_frame_reader_free(&r);
    free(entries);
    return rc;
}

static int from_frames(const source *s, uint64_t page, uint32_t *sums, cdp_status *st)
{
    uint8_t block[CDP_BLOCK];
    blocks b = {.first = page * CDP_SUMS_PER_PAGE, .sums = sums};
    b.end = s->end / CDP_BLOCK < b.first + CDP_SUMS_PER_PAGE ? s->end / CDP_BLOCK : b.first + CDP_SUMS_PER_PAGE;
    memset(sums, 0, 4 * CDP_SUMS_PER_PAGE);
    int rc = walk_frames(s, &b, st);
    for (uint64_t i = b.first; rc == CDP_OK && i < b.end; i++) {
        uint32_t *sum = &sums[i - b.first];
        if (b.state[i - b.first] == BAD)
            *sum = ~*sum;
        else if (b.state[i - b.first] == UNKNOWN && load(s, block, CDP_BLOCK, i * CDP_BLOCK) >= 0)
            *sum = ~cdp_crc32c(0, block, CDP_BLOCK);
    }
    return rc;
}

int cdp_segment_sums(const cdp_os *os, int fd, const char *beside, uint32_t number, uint64_t page, uint32_t *sums,
                     int *from, cdp_status *st)
{
    source s = {.os = os, .fd = fd, .number = number};
    int rc = find_ends(&s, st);
    if (rc != CDP_OK)
        return rc;
    *from = CDP_SUMS_TABLE;
    uint64_t at = s.trailer.sums_offset + page * CDP_BLOCK;
    if (s.sealed && s.trailer.sums_offset && at < s.file_bytes - CDP_BLOCK &&
        load_page(&s, fd, at, page, s.salt, sums))
        return CDP_OK;
    if (s.sealed && !s.trailer.sums_offset && load_beside(&s, beside, page, sums))
        return CDP_OK;
    *from = CDP_SUMS_FRAMES;
    return from_frames(&s, page, sums, st);
}
