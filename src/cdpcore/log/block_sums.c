#include <errno.h>
#include <string.h>
#include "base/crc32c.h"
#include "base/zeros.h"
#include "log/block_sums.h"

#define AT_ONCE 128u /* blocks whose sums are looked up together */
#define SMALL 4u     /* blocks that are read to the stack where a request has parts of them */

static uint32_t page_crc(const uint8_t *page, uint64_t number, uint64_t salt)
{
    const uint64_t seed[2] = {salt, number};
    return cdp_crc32c(cdp_crc32c(0, seed, sizeof seed), page, 4 * CDP_SUMS_PER_PAGE);
}

void cdp_sums_put(uint8_t *pages, const uint32_t *sums, uint64_t n_blocks, uint64_t salt, uint64_t first_page)
{
    for (uint64_t page = 0; page < cdp_sums_pages(n_blocks); page++, pages += CDP_BLOCK) {
        uint64_t first = page * CDP_SUMS_PER_PAGE;
        uint64_t n = n_blocks - first < CDP_SUMS_PER_PAGE ? n_blocks - first : CDP_SUMS_PER_PAGE;
        memcpy(pages, sums + first, 4 * n);
        memset(pages + 4 * n, 0, CDP_BLOCK - 4 * n);
        uint32_t crc = page_crc(pages, first_page + page, salt);
        memcpy(pages + 4 * CDP_SUMS_PER_PAGE, &crc, 4);
    }
}

int cdp_sums_page_ok(const uint8_t *page, uint64_t number, uint64_t salt)
{
    uint32_t crc;
    memcpy(&crc, page + 4 * CDP_SUMS_PER_PAGE, 4);
    return crc == page_crc(page, number, salt);
}

static uint32_t header_crc(const uint8_t *block)
{
    uint8_t copy[CDP_BLOCK];
    memcpy(copy, block, CDP_BLOCK);
    memset(copy + offsetof(struct cdp_sums_header, crc), 0, 4);
    return cdp_crc32c(0, copy, CDP_BLOCK);
}

void cdp_sums_header_put(uint8_t *block, struct cdp_sums_header *h)
{
    memset(block, 0, CDP_BLOCK);
    h->magic = CDP_SUMS_MAGIC;
    h->version = CDP_FORMAT_VERSION;
    memcpy(block, h, sizeof *h);
    h->crc = header_crc(block);
    memcpy(block, h, sizeof *h);
}

int cdp_sums_header_get(const uint8_t *block, struct cdp_sums_header *h)
{
    memcpy(h, block, sizeof *h);
    return h->magic == CDP_SUMS_MAGIC && h->version == CDP_FORMAT_VERSION && h->crc == header_crc(block);
}

void cdp_sums_zeros(uint32_t *sums)
{
    static const uint8_t zeros[CDP_BLOCK];
    sums[0] = cdp_crc32c(0, zeros, CDP_BLOCK);
    for (uint32_t i = 1; i < CDP_SUMS_PER_PAGE; i++)
        sums[i] = sums[0];
}

int cdp_sums_load(const cdp_os *os, int fd, const struct cdp_sums_header *h, uint64_t page, uint32_t *sums)
{
    uint8_t block[CDP_BLOCK];
    const uint64_t first = page * CDP_SUMS_PER_PAGE;
    cdp_sums_zeros(sums);
    if (first >= h->n_blocks)
        return 1;
    if (os->pread(os->ctx, fd, block, CDP_BLOCK, (page + 1) * CDP_BLOCK) != CDP_BLOCK)
        return 0;
    if (cdp_is_zero(block, CDP_BLOCK))
        return 1;
    if (!cdp_sums_page_ok(block, page, h->salt))
        return 0;
    uint64_t n = h->n_blocks - first < CDP_SUMS_PER_PAGE ? h->n_blocks - first : CDP_SUMS_PER_PAGE;
    memcpy(sums, block, 4 * n);
    return 1;
}

static int load(const cdp_os *os, int fd, uint8_t *buf, uint64_t n, uint64_t off, int wait, const char *what,
                cdp_status *st)
{
    int64_t got = wait ? os->pread(os->ctx, fd, buf, n, off) : os->pread_now(os->ctx, fd, buf, n, off);
    if (got == -EAGAIN && !wait)
        return CDP_WOULD_WAIT;
    if (got < 0)
        return cdp_fail_os(st, got, off, what);
    memset(buf + got, 0, n - (uint64_t)got);
    return CDP_OK;
}

/* Whole blocks at `at`, already read to buf. */
static int check_blocks(const cdp_os *os, int fd, uint8_t *buf, uint64_t n, uint64_t at, int wait, cdp_sums_of sums,
                        void *ctx, const char *what, cdp_status *st)
{
    uint32_t expected[AT_ONCE];
    while (n && sums) {
        uint32_t k = n / CDP_BLOCK < AT_ONCE ? (uint32_t)(n / CDP_BLOCK) : AT_ONCE;
        int rc = sums(ctx, at / CDP_BLOCK, k, expected, wait, st);
        for (uint32_t i = 0; rc == CDP_OK && i < k; i++, buf += CDP_BLOCK, at += CDP_BLOCK, n -= CDP_BLOCK) {
            uint32_t found = cdp_crc32c(0, buf, CDP_BLOCK);
            if (found == expected[i] || expected[i] == CDP_SUMS_UNKNOWN)
                continue;
            rc = load(os, fd, buf, CDP_BLOCK, at, wait, what, st);
            found = cdp_crc32c(0, buf, CDP_BLOCK);
            if (rc == CDP_OK && found != expected[i]) {
                rc = cdp_fail(st, CDP_CORRUPT, 0, at, what);
                st->expected = expected[i];
                st->actual = found;
            }
        }
        if (rc != CDP_OK)
            return rc;
    }
    return CDP_OK;
}

/* [from, from + n) inside the blocks that begin at `at`, read to the stack. */
static int read_part(const cdp_os *os, int fd, uint8_t *buf, uint64_t n, uint64_t from, uint64_t at, uint64_t blocks,
                     int wait, cdp_sums_of sums, void *ctx, const char *what, cdp_status *st)
{
    uint8_t whole[SMALL * CDP_BLOCK];
    int rc = load(os, fd, whole, blocks * CDP_BLOCK, at, wait, what, st);
    if (rc == CDP_OK)
        rc = check_blocks(os, fd, whole, blocks * CDP_BLOCK, at, wait, sums, ctx, what, st);
    if (rc == CDP_OK)
        memcpy(buf, whole + (from - at), n);
    return rc;
}

int cdp_read_checked(const cdp_os *os, int fd, void *to, uint64_t n, uint64_t off, int wait, cdp_sums_of sums,
                     void *ctx, const char *what, cdp_status *st)
{
    uint8_t *buf = to;
    const uint64_t end = off + n, first = off / CDP_BLOCK * CDP_BLOCK;
    const uint64_t blocks = (end - first + CDP_BLOCK - 1) / CDP_BLOCK;
    int rc;
    if (off % CDP_BLOCK == 0 && n % CDP_BLOCK == 0) {
        rc = load(os, fd, buf, n, off, wait, what, st);
        return rc != CDP_OK ? rc : check_blocks(os, fd, buf, n, off, wait, sums, ctx, what, st);
    }
    if (blocks <= SMALL)
        return read_part(os, fd, buf, n, off, first, blocks, wait, sums, ctx, what, st);
    if (off % CDP_BLOCK) {
        uint64_t k = first + CDP_BLOCK - off;
        rc = read_part(os, fd, buf, k, off, first, 1, wait, sums, ctx, what, st);
        if (rc != CDP_OK)
            return rc;
        buf += k;
        off += k;
    }
    uint64_t middle = (end - off) / CDP_BLOCK * CDP_BLOCK;
    rc = load(os, fd, buf, middle, off, wait, what, st);
    if (rc == CDP_OK)
        rc = check_blocks(os, fd, buf, middle, off, wait, sums, ctx, what, st);
    if (rc == CDP_OK && off + middle < end)
        rc = read_part(os, fd, buf + middle, end - off - middle, off + middle, off + middle, 1, wait, sums, ctx, what,
                       st);
    return rc;
}
