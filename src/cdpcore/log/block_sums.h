/* Checksums of the 4 KiB blocks of a file: their table on disk, and reads that are checked against them.
 *
 * The table is a list of pages, each whole in itself: a reader needs one page, not the table. Its checksum begins with
 * a salt and the page's number, so that a page of another file, or at another place, is not valid.
 *
 * Threading: none; the caller owns buffers and files. */
#ifndef CDP_BLOCK_SUMS_H
#define CDP_BLOCK_SUMS_H
#include "base/format.h"
#include "base/status.h"
#include "system/os.h"

static inline uint64_t cdp_sums_pages(uint64_t n_blocks)
{
    return (n_blocks + CDP_SUMS_PER_PAGE - 1) / CDP_SUMS_PER_PAGE;
}

/* The table of sums[0..n_blocks), or a part of it that begins with page `first`: cdp_sums_pages(n_blocks) pages. */
void cdp_sums_put(uint8_t *pages, const uint32_t *sums, uint64_t n_blocks, uint64_t salt, uint64_t first);
/* Is this page `number` of the table with that salt? */
int cdp_sums_page_ok(const uint8_t *page, uint64_t number, uint64_t salt);

/* A table in a file of its own: a header, then the pages. header_put fills in magic, version and crc. */
void cdp_sums_header_put(uint8_t *block, struct cdp_sums_header *h);
int cdp_sums_header_get(const uint8_t *block, struct cdp_sums_header *h);
/* Page `page` of such a table to sums[CDP_SUMS_PER_PAGE]; 1: it is valid. What is behind its last block, and a page of
 * zeros, is for blocks of zeros. */
int cdp_sums_load(const cdp_os *os, int fd, const struct cdp_sums_header *h, uint64_t page, uint32_t *sums);
/* CDP_SUMS_PER_PAGE times the sum of a block of zeros. */
void cdp_sums_zeros(uint32_t *sums);

/* The sums of blocks [block, block + n) of a file to out: CDP_OK, CDP_WOULD_WAIT (never with `wait`), or a failure.
 * CDP_SUMS_UNKNOWN: that block is not checked. */
typedef int (*cdp_sums_of)(void *ctx, uint64_t block, uint32_t n, uint32_t *out, int wait, cdp_status *st);

/* n bytes at `off`, from whole blocks that match their checksums; what the file does not have reads as zeros.
 * CDP_CORRUPT: st->offset is where in the file the first block that does not match begins, with the two checksums. A
 * block is read a second time before that is said. Without `wait`: CDP_WOULD_WAIT where a device would be needed.
 * `what`: the file, for st->where. sums NULL: nothing is checked. */
int cdp_read_checked(const cdp_os *os, int fd, void *buf, uint64_t n, uint64_t off, int wait, cdp_sums_of sums,
                     void *ctx, const char *what, cdp_status *st);

#endif
