/* Frames: a segment's file is walked as recovery does it. Whatever it holds, the walk ends, stays in the file, and gives
 * no record that breaks a rule of docs/format.md. */
#include "fuzz.h"
#include "log/frame.h"

enum { VERIFY = 2, SUMS = 4, EXPECT = 8 };

static uint64_t walk(cdp_frame_reader *r, uint32_t how)
{
    cdp_status st = {0};
    uint64_t before = r->off, records = 0;
    int rc;
    while ((rc = cdp_frame_reader_next(r, (how & VERIFY) != 0, &st)) == 1) {
        FUZZ_CHECK(r->off > before && r->off <= r->end && r->off % CDP_BLOCK == 0);
        FUZZ_CHECK(r->head.n_desc && r->head.n_desc <= CDP_FRAME_MAX_DESCS);
        before = r->off;
        for (uint32_t i = 0; i < r->head.n_desc; i++) {
            const struct cdp_record_desc *d = cdp_frame_reader_desc(r, i);
            uint64_t at = (uint64_t)d->data_sector * CDP_SECTOR;
            records++;
            FUZZ_CHECK(d->kind >= CDP_KIND_WRITE && d->kind <= CDP_KIND_FOREIGN && d->sectors <= CDP_MAX_SECTORS);
            FUZZ_CHECK(!cdp_kind_changes(d->kind) || (d->sectors && d->start + d->sectors <= CDP_MAX_SECTORS));
            FUZZ_CHECK(!d->data_bytes || (at > r->frame_off && at + d->data_bytes <= r->off));
            if (how & VERIFY)
                FUZZ_CHECK(cdp_frame_reader_data_ok(r, i, &st) == 1);
            else
                (void)cdp_frame_reader_data_ok(r, i, &st);
        }
    }
    FUZZ_CHECK(rc == 0); /* memory does not fail */
    return records;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 3)
        return 0;
    fuzz_file f = fuzz_unpack(data + 3, n - 3, fuzz_u16(data + 1));
    cdp_os os = fuzz_os(&f);
    cdp_frame_reader r;
    cdp_status st = {0};
    uint64_t durable;
    if (data[0] & FUZZ_MEND)
        fuzz_mend_frames(&f, FUZZ_SALT);
    FUZZ_CHECK(cdp_frame_reader_init(&r, &os, 3, FUZZ_SEGMENT, FUZZ_SALT, f.n, data[0] & EXPECT ? 1 : 0) == 0);
    r.sums = data[0] & SUMS ? calloc(f.n / CDP_BLOCK + 1, 4) : NULL;
    uint32_t *sums = r.sums;
    walk(&r, data[0]);
    FUZZ_CHECK(cdp_frame_reader_later_durable(&r, &durable, &st) == CDP_OK);
    cdp_frame_reader_free(&r);
    free(sums);
    free(f.bytes);
    return 0;
}
