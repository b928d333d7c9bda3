/* A run: opened, checked, searched and walked. What verify accepts, a search must give an answer for, in the order that
 * searches promise; what it refuses must not lead a search out of the file. */
#include "fuzz.h"
#include "index/index_impl.h"

static void mend(fuzz_file *f)
{
    struct cdp_run_header h;
    if (f->n < CDP_BLOCK)
        return;
    memcpy(&h, f->bytes, sizeof h);
    h.magic = CDP_RUN_MAGIC;
    h.version = CDP_FORMAT_VERSION;
    h.file_bytes = f->n;
    if (h.crcs_offset >= CDP_BLOCK && h.crcs_offset <= f->n) {
        uint64_t n = (h.crcs_offset - CDP_BLOCK + CDP_RUN_CRC_SPAN - 1) / CDP_RUN_CRC_SPAN;
        if (n <= (f->n - h.crcs_offset) / 4) {
            for (uint64_t i = 0; i < n; i++) {
                uint64_t at = CDP_BLOCK + i * CDP_RUN_CRC_SPAN, left = h.crcs_offset - at;
                uint32_t crc = cdp_crc32c(0, f->bytes + at, left < CDP_RUN_CRC_SPAN ? left : CDP_RUN_CRC_SPAN);
                memcpy(f->bytes + h.crcs_offset + i * 4, &crc, 4);
            }
            h.crcs_crc = cdp_crc32c(0, f->bytes + h.crcs_offset, n * 4);
        }
    }
    memcpy(f->bytes, &h, sizeof h);
    fuzz_mend_block(f, 0, offsetof(struct cdp_run_header, crc));
}

static void search(const cdp_run *r, int valid, uint64_t sector, uint64_t seq)
{
    const cdp_interval iv[2] = {{seq / 2, seq}, {0, seq / 4}};
    cdp_interval oldest = {seq, UINT64_MAX - 1};
    cdp_status st = {0};
    cdp_hit hit = {0};
    int rc = cdp_run_find(r, sector, iv, 2, &hit, &st);
    FUZZ_CHECK(rc == CDP_OK || (rc == CDP_CORRUPT && !valid));
    FUZZ_CHECK(hit.until > sector);
    if (rc == CDP_OK && hit.found)
        FUZZ_CHECK((iv[0].lo < hit.seq && hit.seq <= iv[0].hi) || hit.seq <= iv[1].hi || !valid);
    cdp_place place = CDP_NO_PLACE;
    memset(&hit, 0, sizeof hit);
    rc = cdp_run_find_near(r, sector, &oldest, CDP_OLDEST, &hit, &place, &st);
    FUZZ_CHECK(rc == CDP_OK || (rc == CDP_CORRUPT && !valid));
    FUZZ_CHECK(rc != CDP_OK || !hit.found || hit.seq > seq || !valid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 12)
        return 0;
    fuzz_file f = fuzz_unpack(data + 12, n - 12, fuzz_u16(data + 1));
    cdp_os os = fuzz_os(&f);
    cdp_status st = {0};
    cdp_run *r = NULL;
    if (data[0] & FUZZ_MEND)
        mend(&f);
    int rc = cdp_run_open(&os, "run", NULL, &r, &st);
    FUZZ_CHECK((rc == CDP_OK) == (r != NULL));
    if (r) {
        uint64_t sector, count = 0, end = 0;
        int valid = cdp_run_verify(r, &st) == CDP_OK;
        memcpy(&sector, data + 3, 8);
        search(r, valid, (sector >> (data[11] & 63)) % CDP_MAX_SECTORS, 1 + (sector & 0xffff));
        cdp_run_cursor c;
        cdp_run_cursor_init(&c, r);
        while ((rc = cdp_run_cursor_next(&c, &st)) == CDP_OK && c.start != UINT64_MAX) {
            FUZZ_CHECK(c.start >= end && c.end > c.start && c.end <= CDP_MAX_SECTORS && c.n_versions);
            for (uint64_t i = 0; i < c.n_versions; i++)
                count += c.versions[i].seq != 0;
            end = c.end;
            search(r, valid, c.start, c.versions[0].seq);
            search(r, valid, c.end - 1, c.versions[c.n_versions - 1].seq);
        }
        FUZZ_CHECK(!valid || (rc == CDP_OK && count == cdp_run_header_of(r)->n_versions));
    }
    cdp_run_close(r);
    free(f.bytes);
    return 0;
}
