/* A segment's two ends, its table of checksums, and the checksums that are found from the frames where the table is not
 * valid; and reads that are checked against either. */
#include "fuzz.h"
#include "log/block_sums.h"
#include "log/segment.h"
#include "log/segment_sums.h"

static uint32_t pages[2][CDP_SUMS_PER_PAGE];

/* As the cache of the log does it. */
static int sums_of(void *ctx, uint64_t block, uint32_t n, uint32_t *out, int wait, cdp_status *st)
{
    (void)ctx, (void)wait, (void)st;
    for (uint32_t i = 0; i < n; i++)
        out[i] = block + i < CDP_SUMS_PER_PAGE ? pages[0][block + i] : CDP_SUMS_UNKNOWN;
    return CDP_OK;
}

static void mend(fuzz_file *f)
{
    struct cdp_segment_header h;
    struct cdp_segment_trailer t;
    if (f->n < 2 * CDP_BLOCK || f->n % CDP_BLOCK)
        return;
    memcpy(&h, f->bytes, sizeof h);
    h.magic = CDP_SEGMENT_MAGIC;
    h.version = CDP_FORMAT_VERSION;
    h.salt = FUZZ_SALT;
    memcpy(f->bytes, &h, sizeof h);
    fuzz_mend_block(f, 0, offsetof(struct cdp_segment_header, crc));
    fuzz_mend_frames(f, FUZZ_SALT);
    uint64_t last = f->n - CDP_BLOCK;
    memcpy(&t, f->bytes + last, sizeof t);
    if (t.magic != CDP_TRAILER_MAGIC)
        return;
    t.salt = FUZZ_SALT;
    if (t.directory_offset < f->n && t.n_frames <= (f->n - t.directory_offset) / sizeof(struct cdp_frame_entry))
        t.directory_crc = cdp_crc32c(0, f->bytes + t.directory_offset, t.n_frames * sizeof(struct cdp_frame_entry));
    memcpy(f->bytes + last, &t, sizeof t);
    fuzz_mend_block(f, last, offsetof(struct cdp_segment_trailer, crc));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 4)
        return 0;
    fuzz_file f = fuzz_unpack(data + 4, n - 4, fuzz_u16(data + 1));
    cdp_os os = fuzz_os(&f);
    uint8_t *read = malloc(f.n + 1);
    if (data[0] & FUZZ_MEND)
        mend(&f);
    uint8_t block[CDP_BLOCK];
    struct cdp_segment_header h;
    struct cdp_sums_header s;
    int table = 0;
    memset(block, 0, sizeof block);
    memcpy(block, f.bytes, f.n < CDP_BLOCK ? f.n : CDP_BLOCK);
    uint32_t number = cdp_segment_header_get(block, &h) ? h.segment : FUZZ_SEGMENT;
    if (cdp_sums_header_get(block, &s))
        for (uint64_t page = 0; page < 3; page++)
            table |= cdp_sums_load(&os, 3, &s, page, pages[0]);
    const uint64_t asked[2] = {0, (uint64_t)data[3] << (data[3] & 32)};
    for (int i = 1; i >= 0; i--) {
        cdp_status st = {0};
        int from = 0, rc = cdp_segment_sums(&os, 3, data[0] & 2 ? "beside" : NULL, number, asked[i], pages[i], &from,
                                            &st);
        FUZZ_CHECK(rc == CDP_OK ? from == CDP_SUMS_TABLE || from == CDP_SUMS_FRAMES : rc == CDP_CORRUPT);
        if (rc != CDP_OK || i)
            continue;
        cdp_status what = {0};
        rc = cdp_read_checked(&os, 3, read, f.n, 0, 1, sums_of, NULL, "fuzz", &what);
        FUZZ_CHECK(rc == CDP_OK || (rc == CDP_CORRUPT && what.offset <= f.n));
        FUZZ_CHECK(rc != CDP_OK || !f.n || !memcmp(read, f.bytes, f.n));
    }
    free(read);
    free(f.bytes);
    return table & 0;
}
