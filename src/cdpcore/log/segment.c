#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/crc32c.h"
#include "log/block_sums.h"
#include "log/segment.h"

static uint32_t block_crc(uint8_t *block, size_t crc_at)
{
    memset(block + crc_at, 0, 4);
    return cdp_crc32c(0, block, CDP_BLOCK);
}

static void header_put(uint8_t *block, const struct cdp_segment_header *h)
{
    memset(block, 0, CDP_BLOCK);
    memcpy(block, h, sizeof *h);
    uint32_t crc = block_crc(block, offsetof(struct cdp_segment_header, crc));
    memcpy(block + offsetof(struct cdp_segment_header, crc), &crc, 4);
}

int cdp_segment_header_get(const uint8_t *block, struct cdp_segment_header *h)
{
    uint8_t copy[CDP_BLOCK];
    memcpy(copy, block, CDP_BLOCK);
    memcpy(h, block, sizeof *h);
    return h->magic == CDP_SEGMENT_MAGIC && h->crc == block_crc(copy, offsetof(struct cdp_segment_header, crc)) &&
           h->version == CDP_FORMAT_VERSION && !(h->flags & ~(uint32_t)CDP_SEGMENT_BEFORE);
}

static void trailer_put(uint8_t *block, const struct cdp_segment_trailer *t)
{
    memset(block, 0, CDP_BLOCK);
    memcpy(block, t, sizeof *t);
    uint32_t crc = block_crc(block, offsetof(struct cdp_segment_trailer, crc));
    memcpy(block + offsetof(struct cdp_segment_trailer, crc), &crc, 4);
}

int cdp_segment_trailer_get(const uint8_t *block, struct cdp_segment_trailer *t)
{
    uint8_t copy[CDP_BLOCK];
    memcpy(copy, block, CDP_BLOCK);
    memcpy(t, block, sizeof *t);
    return t->magic == CDP_TRAILER_MAGIC && t->crc == block_crc(copy, offsetof(struct cdp_segment_trailer, crc));
}

/* A new salt, and the header durable. */
static int64_t begin(const cdp_os *os, int fd, struct cdp_segment_header *h)
{
    h->magic = CDP_SEGMENT_MAGIC;
    h->version = CDP_FORMAT_VERSION;
    int64_t rc = os->random(os->ctx, &h->salt, sizeof h->salt);
    uint8_t *block = os->pages(os->ctx, CDP_BLOCK);
    if (!block)
        return -ENOMEM;
    if (rc >= 0) {
        header_put(block, h);
        rc = os->pwrite(os->ctx, fd, block, CDP_BLOCK, 0);
    }
    os->free_pages(os->ctx, block, CDP_BLOCK);
    return rc < 0 ? rc : os->datasync(os->ctx, fd);
}

int cdp_segment_create(const cdp_os *os, const char *directory, struct cdp_segment_header *h, uint64_t bytes,
                       int direct, int *fd, cdp_status *st)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%010u.log", directory, h->segment);
    int64_t rc = os->open(os->ctx, path, CDP_OPEN_RDWR | CDP_OPEN_CREATE | (direct ? CDP_OPEN_DIRECT : 0));
    if (rc < 0)
        return cdp_fail_os(st, rc, 0, "creating a log segment");
    *fd = (int)rc;
    (void)os->lock(os->ctx, *fd);
    rc = os->allocate(os->ctx, *fd, 0, bytes);
    if (rc >= 0)
        rc = begin(os, *fd, h);
    if (rc >= 0)
        rc = os->sync_dir(os->ctx, directory);
    if (rc < 0) {
        os->close(os->ctx, *fd);
        os->unlink(os->ctx, path);
        return cdp_fail_os(st, rc, 0, "preparing a log segment");
    }
    return CDP_OK;
}

int cdp_segment_of_reserve(const cdp_os *os, const char *from, const char *directory, struct cdp_segment_header *h,
                           int direct, uint64_t *bytes, int *fd, cdp_status *st)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%010u.log", directory, h->segment);
    int64_t rc = os->open(os->ctx, from, CDP_OPEN_RDWR | (direct ? CDP_OPEN_DIRECT : 0));
    if (rc < 0)
        return cdp_fail_os(st, rc, 0, "opening the reserve of the log");
    *fd = (int)rc;
    (void)os->lock(os->ctx, *fd);
    rc = os->size(os->ctx, *fd);
    *bytes = rc < 0 ? 0 : (uint64_t)rc / CDP_BLOCK * CDP_BLOCK;
    if (rc >= 0)
        rc = *bytes < CDP_SEGMENT_LEAST ? -ENOSPC : begin(os, *fd, h);
    if (rc >= 0)
        rc = os->rename(os->ctx, from, path);
    if (rc >= 0) {
        rc = os->sync_dir(os->ctx, directory);
        if (rc < 0)
            os->rename(os->ctx, path, from); /* the number is used again */
    }
    if (rc < 0) {
        os->close(os->ctx, *fd);
        return cdp_fail_os(st, rc, 0, "using the reserve of the log");
    }
    return CDP_OK;
}

static uint64_t directory_bytes(uint32_t n_frames)
{
    return ((uint64_t)n_frames * sizeof(struct cdp_frame_entry) + CDP_BLOCK - 1) / CDP_BLOCK * CDP_BLOCK;
}

uint64_t cdp_segment_seal_bytes(uint64_t end, uint32_t n_frames)
{
    return directory_bytes(n_frames) + (cdp_sums_pages(end / CDP_BLOCK) + 1) * CDP_BLOCK;
}

int cdp_segment_seal(const cdp_os *os, int fd, uint64_t end, const struct cdp_frame_entry *entries, uint32_t n_frames,
                     const uint32_t *sums, struct cdp_segment_trailer *t, uint64_t *file_bytes, cdp_status *st)
{
    uint64_t used = (uint64_t)n_frames * sizeof *entries, table = directory_bytes(n_frames);
    uint64_t n = cdp_segment_seal_bytes(end, n_frames);
    uint8_t *buf = os->pages(os->ctx, n); /* zeros */
    if (!buf)
        return cdp_fail_os(st, -ENOMEM, end, "sealing a segment");
    if (used)
        memcpy(buf, entries, used);
    cdp_sums_put(buf + table, sums, end / CDP_BLOCK, t->salt, 0);
    t->magic = CDP_TRAILER_MAGIC;
    t->directory_offset = end;
    t->n_frames = n_frames;
    t->directory_crc = cdp_crc32c(0, entries, used);
    t->sums_offset = end + table;
    trailer_put(buf + n - CDP_BLOCK, t);
    /* Over what is allocated already, then cut: a full device has room for that, even if others take the space that the
     * cut frees. Until both are durable, the frame that ended the segment is no more valid than it was; afterwards
     * nothing stale is left behind it. */
    int64_t rc = os->pwrite(os->ctx, fd, buf, n, end);
    if (rc >= 0)
        rc = os->truncate(os->ctx, fd, end + n);
    if (rc >= 0)
        rc = os->datasync(os->ctx, fd);
    os->free_pages(os->ctx, buf, n);
    if (rc < 0)
        return cdp_fail_os(st, rc, end, "sealing a segment");
    *file_bytes = end + n;
    return CDP_OK;
}

int cdp_segment_write_again(const cdp_os *os, int fd, uint64_t from, uint64_t to, cdp_status *st)
{
    const uint64_t most = 1 << 20;
    uint8_t *buf = os->pages(os->ctx, most);
    if (!buf)
        return cdp_fail_os(st, -ENOMEM, from, "writing a recovered segment again");
    int64_t rc = 0;
    while (from < to && rc >= 0) {
        uint64_t n = to - from < most ? to - from : most;
        rc = os->pread(os->ctx, fd, buf, n, from);
        if (rc >= 0 && (uint64_t)rc != n)
            rc = -EIO; /* it was read to its end before */
        if (rc >= 0)
            rc = os->pwrite(os->ctx, fd, buf, n, from);
        from += n;
    }
    if (rc >= 0)
        rc = os->datasync(os->ctx, fd);
    os->free_pages(os->ctx, buf, most);
    return rc < 0 ? cdp_fail_os(st, rc, from, "writing a recovered segment again") : CDP_OK;
}
